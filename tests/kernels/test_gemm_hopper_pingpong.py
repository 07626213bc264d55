"""Products whose consumers take turns against the reference in float64; mistakes are found.

The bounds on the errors are derived in ``gemm_cases``. Each planted mistake is a line changed.
"""

from pathlib import Path

import numpy as np
import pytest
from gemm_cases import U, assert_gated, assert_near, numbers

from llm_numba.kernels import gemm_hopper_pingpong as pingpong_file
from llm_numba.kernels.gemm_hopper_epilogue import GATED, epilogue
from llm_numba.kernels.gemm_hopper_pieces import Tile
from llm_numba.kernels.gemm_hopper_pingpong import OWN, plan_pingpong, shared_bytes
from llm_numba.kernels.gemm_hopper_stored import BY_ENGINE
from llm_numba.runtime import is_architecture, launch_all, to_device, to_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import DeadlockError, SimulationError

CUT_OFF = 2 * U
LITTLE = Tile(128, 64, 2)  # stages are used again and again
THREE = Tile(128, 64, 3)
BROAD = Tile(128, 128, 2)  # half of it a gate's
FORMAT = "float16"


def operands(M, N, K, dtype=FORMAT):
    return numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype), np.full((M, N), np.nan, dtype)


def multiply(tile, M, N, K, kernel=None, blocks=1, **options):
    """Multiply in the simulator, by few blocks: with one for each tile nobody takes turns."""
    x, weight, out = operands(M, N, K)
    (launch,) = plan_pingpong(x, weight, out, tile)
    launch = launch._replace(grid=(blocks,), kernel=kernel or launch.kernel)
    simulate(*launch, explain=False, **options)
    assert_near(out, x, weight, u=CUT_OFF)


# -- What it computes -----------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [LITTLE, THREE], ids=["two", "three"])
@pytest.mark.parametrize(
    ("M", "N", "K", "blocks"),
    [
        (1, 8, 8, 1),  # one tile: the second consumer has none
        (130, 72, 328, 1),  # slabs that no number of stages divides
        (200, 136, 8, 2),  # one slab a tile
        (70, 320, 200, 1),  # an odd number of tiles
    ],
)
def test_consumers_take_turns(tile, M, N, K, blocks):
    multiply(tile, M, N, K, blocks=blocks)


@pytest.mark.parametrize("tile", [LITTLE, THREE], ids=["two", "three"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_they_are_right_in_any_order(tile, seed):
    multiply(tile, M=9, N=136, K=136, schedule="random", seed=seed)


@pytest.mark.parametrize(
    ("activation", "biased", "added"),
    [(GATED, True, False), pytest.param("gelu", True, True, marks=pytest.mark.slow)],
)
def test_epilogues_are_those_of_the_ladder(activation, biased, added):
    """The copy engine brings half of a tile's columns of each half of the weights for a gate."""
    M, K, F = 70, 72, 136
    x, weight, _ = operands(M, 2 * F if activation == GATED else F, K)
    bias = numbers(len(weight), dtype=FORMAT)
    residual = numbers(M, F, dtype=FORMAT) if added else None
    out = np.full((M, F), np.nan, FORMAT)
    ending = epilogue(activation, biased, added, True)
    (launch,) = plan_pingpong(x, weight, out, BROAD, ending, bias, residual)
    simulate(*launch._replace(grid=(1,)), explain=False)
    if activation == GATED:
        assert_gated(out, x, weight, bias, residual, u=CUT_OFF)
    else:
        assert_near(out, x, weight, bias, activation, residual, u=CUT_OFF)


def test_tiles_fit_the_memory_and_the_registers_of_an_sm():
    taken = shared_bytes(OWN) + 16 * (OWN.stages + 1)
    assert taken <= LIMITS[9, 0].block_shared_bytes
    given = pingpong_file._OF_PRODUCER + 2 * pingpong_file._OF_CONSUMER
    assert 128 * given <= 65536 // 384 // 8 * 8 * 384


# -- Planted mistakes -----------------------------------------------------------------------------


def changed(text, instead):
    """Make the little kernel from source in which a line reads otherwise."""
    source = Path(pingpong_file.__file__).read_text()
    assert source.count(text) == 1
    scope = {"__name__": "planted", "__file__": pingpong_file.__file__}
    exec(compile(source.replace(text, instead), pingpong_file.__file__, "exec"), scope)
    return scope["pingpong"](FORMAT, LITTLE, BY_ENGINE)


@pytest.mark.parametrize(
    ("text", "instead", "error"),
    [
        # Nobody waits for a turn, and takes the slabs of the other's tile.
        ("            _await(turns, me, parity)\n", "", SimulationError),
        # Nobody hands the turn over.
        ("                _arrive(turns, 1 - me)\n", "                pass\n", DeadlockError),
        # Nobody waits for a slab.
        ("            _await(full, stage, parity)\n", "", DeadlockError),
        # A stage is freed while its products go on.
        ("                ptx.wgmma_wait(1)\n", "", AssertionError),
        # The last stage of a tile is never freed.
        ("        ptx.wgmma_wait(0)\n        _arrive(free, before)\n",
         "        ptx.wgmma_wait(0)\n", DeadlockError),
        # The slabs of the other's tile are not skipped.
        ("count += int32(CONSUMERS * slabs)", "count += int32(slabs)", SimulationError),
        # Sums are stored before the last products have been added.
        ("        ptx.wgmma_wait(0)\n", "", AssertionError),
        # The second 64 rows are those of the first.
        ("a + uint64(LOWER)", "a", AssertionError),
    ],
    ids=["no turns", "turn kept", "no slab", "freed early", "never freed", "same slabs",
         "stored early", "same rows"],
)  # fmt: skip
def test_a_planted_mistake_is_found(text, instead, error):
    with pytest.raises(error):
        multiply(LITTLE, M=70, N=136, K=136, kernel=changed(text, instead))


# -- What is compiled -----------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    ("tile", "activation"), [(OWN, None), (Tile(128, 128, 6), "gelu"), (Tile(128, 128, 6), GATED)]
)
def test_sums_stay_in_registers(tile, activation):
    x, weight, out = operands(128, 256, 64)
    out = out[:, :128].copy() if activation == GATED else out
    ending = epilogue(activation, False, False, True) if activation else BY_ENGINE
    (launch,) = plan_pingpong(x, weight, out, tile, ending)
    taken = resources(launch, (9, 0, "a"))
    assert (taken.stack_bytes, taken.spill_stores, taken.float64) == (0, 0, ())


# -- On a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(("M", "N", "K"), [(1, 8, 8), (127, 520, 4088), (4095, 2056, 136)])
def test_large_and_odd_shapes_on_a_gpu(M, N, K):
    x, weight, out = operands(M, N, K)
    there = [to_device(each, "cuda") for each in (x, weight, out)]
    if not is_architecture(there[0], (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")
    launch_all(plan_pingpong(*there))
    assert_near(to_host(there[2]), x, weight, u=CUT_OFF)
