"""Products whose K the blocks of a cluster share: right, the same bits always, mistakes found.

The bound on the error is derived in ``gemm_cases``. Tiles are small, so that stages are used again;
what a cluster's blocks have laid down meets as it does with large ones.
"""

import itertools

import numpy as np
import pytest
from gemm_cases import U, assert_gated, assert_near, numbers
from planting import changed

from llm_numba.kernels import gemm_hopper_split as file
from llm_numba.kernels.gemm_hopper_epilogue import GATED
from llm_numba.kernels.gemm_hopper_pieces import Tile
from llm_numba.kernels.gemm_hopper_split import SPLIT_SLAB, cuts_for, plan_split, shared_bytes
from llm_numba.runtime import is_architecture, launch_all, to_device, to_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.offline import (
    assemble,
    compile_to_ptx,
    compiler_problem,
    resources,
    signature_of,
)
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import RaceError

CUT_OFF = 2 * U
LITTLE = Tile(128, 32, 2)
BOXES = Tile(128, 128, 2)  # two blocks have a box of the copy engine each
LOW = Tile(64, 48, 3)
WIDE = Tile(128, 256, 4)
HOPPER = (9, 0, "a")


def operands(M, N, K, dtype="bfloat16", activation=None, beside=False, stored=None):
    columns = N // 2 if activation == GATED else N
    return {
        "x": numbers(M, K, dtype=dtype),
        "weight": numbers(N, K, dtype=dtype),
        "out": np.full((M, columns), np.nan, stored or dtype),
        "bias": numbers(N, dtype=dtype) if beside else None,
        "residual": numbers(M, columns, dtype=stored or dtype) if beside else None,
    }


def placed(given, device):
    return {name: None if a is None else to_device(a, device) for name, a in given.items()}


def check(device, tile, blocks, activation=None, **options):
    """Multiply, and compare: every number is written, for it was NaN before."""
    given = operands(activation=activation, **options)
    there = placed(given, device)
    if not is_architecture(there["x"], (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")
    launch_all(plan_split(tile, blocks, **there, activation=activation))
    assert_right(to_host(there["out"]), activation, **given)


def assert_right(y, activation, x, weight, out, bias, residual):
    if activation == GATED:
        assert_gated(y, x, weight, bias, residual, stored=out.dtype, u=CUT_OFF)
    else:
        assert_near(y, x, weight, bias, activation, residual, stored=out.dtype, u=CUT_OFF)


# -- What it computes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile", "blocks", "M", "N", "K", "dtype"),
    [
        (LITTLE, 2, 130, 40, 328, "bfloat16"),  # six slabs: three each, through two stages
        (LITTLE, 4, 7, 33, 264, "float16"),  # five slabs: the last block has none
        (LITTLE, 4, 100, 70, 8, "bfloat16"),  # one slab for four
        (LOW, 3, 70, 50, 136, "float16"),  # one consumer
        (LOW, 2, 64, 97, 72, "bfloat16"),
        (Tile(128, 64, 2), 8, 9, 72, 1032, "bfloat16"),
        (BOXES, 2, 70, 136, 136, "float16"),  # by the copy engine
    ],
)
def test_blocks_of_a_cluster_share_k(tile, blocks, M, N, K, dtype, device):
    check(device, tile, blocks, M=M, N=N, K=K, dtype=dtype)


@pytest.mark.parametrize(
    ("activation", "tile", "blocks", "N", "stored"),
    [
        ("gelu", LITTLE, 2, 40, None),
        ("silu", LITTLE, 4, 35, "float32"),
        (GATED, LITTLE, 2, 52, None),
        (GATED, Tile(128, 256, 2), 2, 272, None),  # by the copy engine
        pytest.param("gelu_tanh", BOXES, 2, 136, None, marks=pytest.mark.slow),
    ],
)
def test_bias_activation_gate_and_residual_follow(activation, tile, blocks, N, stored, device):
    shape = {"M": 66, "N": N, "K": 136}
    check(device, tile, blocks, activation, **shape, beside=True, stored=stored)


@pytest.mark.slow
@pytest.mark.parametrize(("tile", "blocks"), list(SPLIT_SLAB))
def test_tiles_of_the_engine_are_right(tile, blocks):
    check("sim", tile, blocks, M=129, N=tile.columns + 8, K=264)


@pytest.mark.parametrize(
    ("blocks", "seed"), [(2, 0), *(pytest.param(4, n, marks=pytest.mark.slow) for n in range(3))]
)
def test_the_order_of_threads_and_blocks_does_not_show_in_a_bit(blocks, seed):
    given = operands(9, 40, 200, "float16")
    launch_all(plan_split(LITTLE, blocks, **(there := placed(given, "sim"))))
    (launch,) = plan_split(LITTLE, blocks, **given)
    simulate(*launch, explain=False, schedule="random", seed=seed)
    np.testing.assert_array_equal(given["out"], to_host(there["out"]))


# -- Planted mistakes -----------------------------------------------------------------------------


def plan_with(*replacements):
    """Make the kernel's plan from a file in which some lines read otherwise."""
    return changed(file, *replacements)["plan_split"]


def multiply(plan, M=66, N=40, K=200, **order):
    given = operands(M, N, K, "float16")
    (launch,) = plan(LITTLE, 2, **given)
    simulate(*launch, **order)
    assert_right(given["out"], None, **given)


@pytest.mark.parametrize(
    ("text", "instead", "error"),
    [
        # Sums are laid down where the other consumer still multiplies.
        ("        ptx.barrier_sync(1, THREADS)", "        pass", RaceError),
        # Both blocks have the same columns first.
        ("(rank + p) % BLOCKS", "p", AssertionError),
        # All read what belongs to another block's columns.
        ("(rank + BLOCKS - p) % BLOCKS", "rank", AssertionError),
        # Both have the first part of K.
        ("first = ptx.cluster_rank() * span", "first = 0", AssertionError),
    ],
    ids=["consumers", "columns", "whose sums", "part of K"],
)
def test_a_planted_mistake_is_found(text, instead, error):
    plan = plan_with((text, instead))
    with pytest.raises(error):
        multiply(plan)


MEETINGS = "            _meet()\n            _meet()\n"  # of the producer
ADDING = "        add(0, (acc, passing, thread, rank))\n"


def test_sums_that_are_read_before_all_have_laid_down_theirs_are_found():
    plan = plan_with((f"        _meet()\n{ADDING}", ADDING), (MEETINGS, "            _meet()\n"))
    with pytest.raises(RaceError):
        multiply(plan)


def test_a_block_that_ends_while_a_late_one_reads_its_sums_is_found():
    late = "        for _ in range(100 * rank):\n            ptx.mbarrier_test(full, 0, 0)\n"
    multiply(plan_with((ADDING, late + ADDING)), 9, 9, 8, schedule="random", seed=0)
    plan = plan_with(
        (f"{ADDING}        _meet()\n", late + ADDING), (MEETINGS, "            _meet()\n")
    )
    with pytest.raises(RaceError, match="that has ended"):
        multiply(plan, 9, 9, 8, schedule="random", seed=0)


# -- Which cut ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "cuts"),
    [
        ((128, 4096, 4096), [(128, 2), (192, 4)]),
        ((128, 6144, 4096), [(128, 2)]),  # 32 clusters of four, and there is room for 30
        ((256, 6144, 4096), []),
        ((128, 4096, 128), [(128, 2)]),  # two slabs
        ((128, 4096, 64), []),
    ],
)
def test_all_clusters_have_room_at_once_and_each_block_has_a_slab(shape, cuts):
    assert [(tile.columns, blocks) for tile, blocks in cuts_for(*shape, 132)] == cuts


def test_no_k_is_split_where_no_cluster_has_room():
    assert not cuts_for(128, 4096, 4096, 2)


def test_blocks_share_the_columns_of_a_tile_evenly_with_a_gate_and_without():
    assert all(tile.columns % (16 * blocks) == 0 for tile, blocks in SPLIT_SLAB)


def test_stages_sums_and_rooms_fit_the_memory_of_an_sm():
    for tile, blocks in itertools.product([WIDE, *(tile for tile, _ in SPLIT_SLAB)], (2, 4, 8)):
        taken = shared_bytes(tile, blocks) + 16 * tile.stages
        assert taken <= LIMITS[9, 0].block_shared_bytes


# -- What is compiled -----------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    ("tile", "blocks", "activation"),
    [
        *((tile, 4, None) for tile in (WIDE, Tile(64, 256, 5))),
        *((*cut, activation) for cut in SPLIT_SLAB for activation in (None, "gelu", GATED)),
        (WIDE, 2, GATED),
        (WIDE, 8, "gelu"),
    ],
)
def test_sums_stay_in_registers_and_products_follow_each_other(tile, blocks, activation):
    """The assembler would wait for each product if sums were touched before the last wait."""
    given = operands(128, 256, 64, "bfloat16", activation, beside=activation is not None)
    (launch,) = plan_split(tile, blocks, **placed(given, "sim"), activation=activation)
    taken = resources(launch, HOPPER)
    assert (taken.stack_bytes, taken.spill_stores, taken.float64) == (0, 0, ())
    log = assemble(compile_to_ptx(launch.kernel, signature_of(launch), HOPPER), HOPPER)
    assert "serialized" not in log


# -- On a GPU: large, odd, and again and again ----------------------------------------------------

CUTS = [*SPLIT_SLAB, *((WIDE, blocks) for blocks in (2, 4, 8))]


@pytest.mark.gpu
@pytest.mark.parametrize(("tile", "blocks"), [*CUTS, (Tile(64, 256, 5), 8)])
@pytest.mark.parametrize("activation", [None, "gelu", GATED])
def test_large_and_odd_shapes_on_a_gpu(activation, tile, blocks):
    if activation == GATED and tile.columns % (16 * blocks):
        pytest.skip("a gate's halves are no whole eights")
    for M, N, K in [(1, 2, 8), (127, 1030, 4088), (300, 776, 1000)]:
        beside = activation is not None
        check("cuda", tile, blocks, activation, M=M, N=N, K=K, beside=beside)


@pytest.mark.gpu
@pytest.mark.parametrize(("tile", "blocks"), CUTS)
def test_a_hundred_repeats_are_bit_identical(tile, blocks):
    import cupy

    there = placed(operands(128, 2048, 4096), "cuda")
    if not is_architecture(there["x"], (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")
    plan, out = plan_split(tile, blocks, **there), there["out"].view(cupy.uint16)
    launch_all(plan)
    once = out.copy()
    for _ in range(100):
        out.fill(0)
        launch_all(plan)
        assert bool((out == once).all())
