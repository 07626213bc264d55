"""Few rows by clusters that share x: right for any cut and in any order, and what it takes.

Each planted mistake is a line of a kernel changed. The bound on the error is that of the ladder's.
"""

import numpy as np
import pytest
from gemm_cases import U, assert_gated, assert_near, numbers
from planting import changed

from llm_numba.kernels import gemm_skinny_multicast as multicast_file
from llm_numba.kernels.gemm_skinny import MOST_ROWS
from llm_numba.kernels.gemm_skinny_kernel import joined_bytes
from llm_numba.kernels.gemm_skinny_multicast import Slice, plan_slice, slice_for
from llm_numba.runtime import kernel_view, launch_all, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.runtime.room import SIMULATED, Room, room_of
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import DeadlockError, RaceError, SimulationError

H100 = Room(multiprocessors=132, shared_bytes=227 * 1024, has_clusters=True)
CUT_OFF = 2 * U
LITTLE = Slice(32, 32, 2, 2)  # stages are used again and again
PROJECTIONS = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]


def multiply(cut, M, N, K, *, activation=None, stored="bfloat16", kernel=None, **options):
    """Run a cut in the simulator, with bias and residual, and compare it with float64."""
    columns = N // 2 if activation == "silu_mul" else N
    x, weight = numbers(M, K, dtype="bfloat16"), numbers(N, K, dtype="bfloat16")
    bias, residual = numbers(N, dtype="bfloat16"), numbers(M, columns, dtype=stored)
    out = to_device(np.full((M, columns), np.nan, stored), "sim")
    operands = [to_device(each, "sim") for each in (x, weight)]
    rest = [to_device(each, "sim") for each in (bias, residual)]
    (launch,) = plan_slice(cut, *operands, out, rest[0], activation, rest[1])
    if kernel is not None:
        launch = launch._replace(kernel=kernel)
    args = (kernel_view(each) if isinstance(each, np.ndarray) else each for each in launch.args)
    simulate(*launch._replace(args=tuple(args)), **options)
    if activation == "silu_mul":
        assert_gated(np.asarray(out), x, weight, bias, residual, stored, u=CUT_OFF)
    else:
        assert_near(np.asarray(out), x, weight, bias, activation, residual, stored, u=CUT_OFF)


@pytest.mark.parametrize(
    ("cut", "shape", "activation", "stored"),
    [
        (LITTLE, (9, 33, 200), None, "bfloat16"),  # the second block has one column, of eight rows
        (LITTLE, (32, 130, 328), "silu_mul", "bfloat16"),
        (Slice(64, 48, 2, 4), (33, 100, 264), "gelu", "float32"),
        (Slice(64, 32, 9, 8), (64, 72, 8), None, "bfloat16"),  # more stages than slabs
        (Slice(128, 40, 3, 4), (127, 37, 264), "silu", "float32"),
        (Slice(128, 48, 2, 2), (65, 48, 136), "silu_mul", "float32"),
    ],
)
def test_every_cut_is_the_reference(cut, shape, activation, stored):
    multiply(cut, *shape, activation=activation, stored=stored)


@pytest.mark.parametrize("seed", range(2))
def test_no_order_of_threads_and_boxes_breaks_it(seed):
    multiply(LITTLE, 20, 40, 264, schedule="random", seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [LITTLE, Slice(64, 32, 3, 4), Slice(128, 48, 2, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_no_order_breaks_other_cuts(cut, seed):
    multiply(cut, 31, 100, 328, schedule="random", seed=seed)
    multiply(cut, 31, 100, 328, activation="silu_mul", schedule="random", seed=seed)


# -- The rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("M", [1, 33, MOST_ROWS])
@pytest.mark.parametrize("N", [34, 4096, 57344, 128256])
@pytest.mark.parametrize("room", [H100, SIMULATED], ids=["H100", "simulator"])
def test_the_rule_makes_what_can_be_launched(room, M, N, gated):
    cut = slice_for((M, N, 4096), gated, room)
    assert cut.rows >= max(M, 32)
    assert 32 <= cut.columns <= 256
    assert cut.columns % (16 if gated else 8) == 0
    assert 2 <= cut.stages <= 32
    assert cut.rows % (8 * cut.blocks) == 0  # each block's rows of x begin with a swizzle
    assert cut.shared_bytes + 16 * cut.stages <= room.shared_bytes
    assert joined_bytes(cut) <= cut.shared_bytes


@pytest.mark.parametrize(("N", "K"), PROJECTIONS)
@pytest.mark.parametrize("gated", [False, True])
def test_on_an_h100_there_is_one_block_for_each_of_128_multiprocessors(N, K, gated):
    cut = slice_for((64, N, K), gated, H100)
    assert -(-N // cut.columns) == 128
    assert cut.stages * cut.columns * 128 >= 64 * 1024  # bytes of weights under way


# -- Planted mistakes -----------------------------------------------------------------------------


def multicast_with(*replacements):
    """Return the factory of kernels whose file has some lines that read otherwise."""
    return changed(multicast_file, *replacements)["multicast"]


def multiply_in_some_orders(kernel, K):
    for seed in range(4):
        multiply(LITTLE, 20, 40, K, kernel=kernel, schedule="random", seed=seed)


@pytest.mark.parametrize(
    ("text", "instead", "error"),
    [
        # The other block gets no rows of this one, and waits for bytes that do not come.
        ("full, stage, EVERYONE)", "full, stage, 1 << rank)", DeadlockError),
        # Both bring the same rows.
        ("row = rank * SHARE", "row = 0", SimulationError),
        # The stage of this block is free, that of the other may not be.
        ("MULTIPLIERS // _WARP * BLOCKS", "MULTIPLIERS // _WARP", SimulationError),
        # x comes before the other block has barriers.
        ("            ptx.fence_barriers()\n", "", RaceError),
        ("        cuda.syncwarp()\n        ptx.cluster_wait()  # from",
         "        cuda.syncthreads()  # from", RaceError),
        # A stage is filled again while it is multiplied.
        ("while not ptx.mbarrier_test(free, stage, parity):", "if False:", SimulationError),
        ("while not ptx.mbarrier_test(free, stage, parity ^ 1):", "if False:", SimulationError),
        # Sums are laid down where others still multiply.
        ("        ptx.cluster_arrive()\n        cuda.syncthreads()",
         "        ptx.cluster_arrive()", RaceError),
    ],
    ids=["mask", "same rows", "own arrivals", "no fence", "no begin", "no wait of W",
         "no wait of x", "no meeting"],
)  # fmt: skip
def test_a_mistake_is_found(text, instead, error):
    kernel = multicast_with((text, instead))("bfloat16", LITTLE, False)
    with pytest.raises(error):
        multiply_in_some_orders(kernel, 264)


def test_a_block_that_ends_while_the_other_arrives_at_its_barriers_is_found():
    make = multicast_with(
        ("        ptx.cluster_arrive()\n        cuda.syncthreads()", "        cuda.syncthreads()"),
        ("        ptx.cluster_wait()\n\n", "\n"),
        # It ends sooner still if it stores nothing.
        ("            lay(0, (acc, passing, t", "            (0, (acc, passing, t"),
        ("            finish(passing, 0,", "            (passing, 0,"),
    )
    kernel = make("bfloat16", LITTLE, False)
    with pytest.raises(RaceError, match="that has ended"):
        multiply_in_some_orders(kernel, 136)


# -- On a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("blocks", [2, 4, 8])
@pytest.mark.parametrize("M", [33, 64, 128])
def test_a_gate_of_a_model_on_a_gpu(M, blocks):
    """Sampled columns in float64; whatever is not written would still be NaN."""
    import cupy

    rng, F, K = cupy.random.default_rng(M), 3080, 4088
    shapes = (M, K), (2 * F, K), (2 * F,), (M, F)
    x, weight, bias, residual = (
        rng.standard_normal(shape, dtype=cupy.float32).astype(cupy.float16) for shape in shapes
    )
    weight /= cupy.float16(8)  # or products of two sums would be too large
    cut = slice_for((M, 2 * F, K), True, room_of(x))._replace(blocks=blocks)
    results = [cupy.full((M, F), cupy.nan, cupy.float16) for _ in range(20)]
    for out in results:
        launch_all(plan_slice(cut, x, weight, out, bias, "silu_mul", residual))
    assert all(bool((out == results[0]).all()) for out in results)
    columns = np.unique(np.linspace(0, F - 1, 40).astype(int))
    both = np.concatenate([columns, F + columns])
    x, weight, bias, residual, out = map(to_host, (x, weight, bias, residual, results[0]))
    assert np.isfinite(out).all()
    chosen = x, weight[both], bias[both], residual[:, columns]
    assert_gated(out[:, columns], *chosen, u=CUT_OFF)


@pytest.mark.ptx
def test_sums_of_the_widest_cuts_stay_in_registers():
    if problem := compiler_problem():
        pytest.skip(problem)
    x, weight = (to_device(np.zeros((n, 64), "bfloat16"), "sim") for n in (8, 64))
    out = to_device(np.zeros((8, 32), "bfloat16"), "sim")
    for M in (64, 128):
        cut = slice_for((M, 14336, 4096), True, H100)
        (launch,) = plan_slice(cut, x, weight, out, activation="silu_mul")
        found = resources(launch, (9, 0, "a"))
        assert found.stack_bytes == found.spill_stores == found.spill_loads == 0, cut
