"""Every step of the ladder for few rows against the reference in float64, and what each costs.

The bound on the error is derived in ``gemm_cases``.
"""

from types import CellType, FunctionType, ModuleType

import numpy as np
import pytest
from gemm_cases import U, assert_gated, assert_near, numbers
from numba import cuda

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_skinny import (
    LADDER,
    MOST_ROWS,
    TUNABLE,
    candidates,
    gemm_skinny,
    plan_streamed,
    plan_tile,
    rule,
)
from llm_numba.kernels.gemm_skinny_kernel import joined_bytes
from llm_numba.kernels.gemm_tensorcore_tiles import Tile
from llm_numba.runtime import intercept, kernel_view, launch_all, overlapping, to_device, to_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate
from llm_numba.simulator.clusters import cluster_of, in_clusters
from llm_numba.simulator.errors import RaceError, UninitializedReadError

STEPS = [step.name for step in LADDER.steps]
LAST = STEPS[-1]
each_step = pytest.mark.parametrize("step", STEPS)
CUT_OFF = 2 * U
SMALL = Tile(16, 32, 16, 16, 32, 3, 1)  # two warps
NARROW = Tile(16, 64, 16, 16, 64, 2, 1)  # a warpgroup, or four warps


def run(x, weight, bias=None, *, device, residual=None, **options):
    def place(each):
        return None if each is None else to_device(each, device)

    operands = place(x), place(weight), place(bias)
    return to_host(gemm_skinny(*operands, residual=place(residual), **options))


def run_tile(tile, x, weight, *, activation=None, plan=plan_tile, **how):
    """Run one cut in the simulator."""
    N = len(weight) // (2 if activation == "silu_mul" else 1)
    out = to_device(np.full((len(x), N), np.nan, x.dtype), "sim")
    operands = to_device(x, "sim"), to_device(weight, "sim"), out
    launch_all(plan(tile, *operands, activation=activation, **how))
    return np.asarray(out)


# -- What it computes ---------------------------------------------------------------------------


@each_step
@pytest.mark.parametrize(
    ("M", "N", "K", "dtype"),
    [
        (1, 1, 8, "bfloat16"),
        (9, 34, 520, "float16"),
        *(
            pytest.param(*shape, dtype, marks=pytest.mark.slow)
            for shape in [(1, 129, 2048), (17, 131, 1032), (63, 264, 136), (127, 40, 520)]
            for dtype in LADDER.dtypes
        ),
    ],
)
def test_each_step_is_the_reference(M, N, K, dtype, step, device):
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    assert_near(run(x, weight, device=device, step=step), x, weight, u=CUT_OFF)


@each_step
@pytest.mark.parametrize(("M", "N"), [(0, 40), (40, 0), (0, 0)])
def test_no_rows_or_no_columns_make_an_empty_result(M, N, step, device):
    x, weight = numbers(M, 8, dtype="float16"), numbers(N, 8, dtype="float16")
    assert run(x, weight, device=device, step=step).shape == (M, N)


def test_the_sum_of_no_products_is_zero_and_the_epilogue_follows(device):
    x, weight = numbers(3, 0, dtype="float16"), numbers(34, 0, dtype="float16")
    bias, residual = numbers(34, dtype="float16"), numbers(3, 34, dtype="float16")
    y = run(x, weight, bias, residual=residual, device=device)
    sums = bias.astype(np.float32) + residual.astype(np.float32)
    np.testing.assert_array_equal(y, sums.astype(np.float16))


@pytest.mark.parametrize(
    ("activation", "step", "N"),
    [("gelu", "deep", 40), ("gelu", "split", 40), ("silu", LAST, 37), ("gelu_tanh", LAST, 40)],
)
def test_bias_activation_and_residual_follow_in_this_order(activation, step, N, device):
    x, weight = numbers(7, 520, dtype="bfloat16"), numbers(N, 520, dtype="bfloat16")
    bias, residual = numbers(N, dtype="bfloat16"), numbers(7, N, dtype="bfloat16")
    y = run(x, weight, bias, activation=activation, residual=residual, device=device, step=step)
    assert_near(y, x, weight, bias, activation, residual, u=CUT_OFF)


@pytest.mark.parametrize(("step", "F"), [*((step, 72) for step in STEPS), (LAST, 19)])
def test_a_gate_multiplies_the_other_half_of_the_columns(step, F, device):
    x, weight = numbers(18, 520, dtype="bfloat16"), numbers(2 * F, 520, dtype="bfloat16")
    bias, residual = numbers(2 * F, dtype="bfloat16"), numbers(18, F, dtype="bfloat16")
    y = run(x, weight, bias, activation="silu_mul", residual=residual, device=device, step=step)
    assert_gated(y, x, weight, bias, residual, u=CUT_OFF)


@pytest.mark.parametrize("activation", [None, "silu_mul"])
def test_the_result_may_be_float32(activation, device):
    x, weight = numbers(9, 520, dtype="bfloat16"), numbers(34, 520, dtype="bfloat16")
    residual = numbers(9, 17 if activation else 34)
    out = to_device(np.empty(residual.shape, np.float32), device)
    y = run(x, weight, residual=residual, activation=activation, out=out, device=device)
    check = assert_gated if activation else assert_near
    check(y, x, weight, residual=residual, stored="float32", u=CUT_OFF)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_their_row_and_no_other(value, device):
    x, weight = numbers(8, 520, dtype="bfloat16"), np.abs(numbers(33, 520, dtype="bfloat16"))
    x[7, 519] = value
    y = run(x, weight, device=device)
    np.testing.assert_array_equal(y[7].astype(np.float32), np.full(33, value, np.float32))
    assert_near(y[:7], x[:7], weight, u=CUT_OFF)


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("activation", [None, "silu_mul"])
def test_parts_cover_all_of_k_whoever_adds_them(splits, clustered, activation):
    """A last slab that is not whole, and parts that have nothing."""
    x, weight = numbers(11, 136, dtype="float16"), numbers(80, 136, dtype="float16")
    tile = SMALL._replace(splits=splits)
    y = run_tile(tile, x, weight, activation=activation, clustered=clustered)
    check = assert_gated if activation else assert_near
    check(y, x, weight, u=CUT_OFF)
    # Parts are added in the order of K, and K whole is summed up in that order, too.
    other = run_tile(tile, x, weight, activation=activation, clustered=not clustered)
    np.testing.assert_array_equal(y, other)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("activation", [None, "silu_mul"])
def test_warpgroups_make_the_same_of_the_same_cut(splits, activation):
    x, weight = numbers(11, 136, dtype="float16"), numbers(160, 136, dtype="float16")
    y = run_tile(
        NARROW._replace(splits=splits), x, weight, activation=activation, plan=plan_streamed
    )
    check = assert_gated if activation else assert_near
    check(y, x, weight, u=CUT_OFF)


@pytest.mark.slow
def test_every_tile_is_the_reference():
    tiles = {(M, each._replace(splits=1)) for M in (16, 32, 64, 128) for each in cuts(M)}
    for M, tile in tiles:
        x, weight = numbers(M - 3, 264, dtype="float16"), numbers(136, 264, dtype="float16")
        for splits in (1, 4):
            for activation, check in ((None, assert_near), ("silu_mul", assert_gated)):
                for plan in (plan_tile, plan_streamed):
                    cut = tile._replace(splits=splits)
                    y = run_tile(cut, x, weight, activation=activation, plan=plan)
                    check(y, x, weight, u=CUT_OFF)


# -- On a GPU: large, odd, and again and again ---------------------------------------------------


def random_on_gpu(*shape):
    import cupy

    rng = cupy.random.default_rng(shape[0])
    halves = rng.standard_normal(shape, dtype=cupy.float32).astype(cupy.float16)
    return halves, cupy.asnumpy(halves)


@pytest.mark.gpu
@pytest.mark.parametrize("K", [8, 4088])
@pytest.mark.parametrize("N", [1, 129, 4095, 6144])
@pytest.mark.parametrize("M", [1, 17, 64, 127])
def test_large_and_odd_shapes_on_a_gpu(M, N, K):
    """Sampled columns in float64; whatever is not written would still be NaN."""
    (x, x_host), (weight, weight_host) = random_on_gpu(M, K), random_on_gpu(N, K)
    columns = np.unique(np.linspace(0, N - 1, 40).astype(int))
    for step in ("clustered", LAST):
        out = to_device(np.full((M, N), np.nan, np.float16), "cuda")
        y = to_host(gemm_skinny(x, weight, out=out, step=step))
        assert not np.isnan(y).any()
        assert_near(y[:, columns], x_host, weight_host[columns], u=CUT_OFF)


@pytest.mark.gpu
@pytest.mark.parametrize("M", [16, 100])
@pytest.mark.parametrize("step", STEPS)
def test_a_hundred_repeats_are_bit_identical(step, M):
    import cupy

    x, weight = random_on_gpu(M, 4096)[0], random_on_gpu(4096, 4096)[0]
    once = gemm_skinny(x, weight, step=step)
    out = cupy.empty_like(once)
    for _ in range(100):
        out.fill(cupy.nan)
        gemm_skinny(x, weight, out=out, step=step)
        assert bool((out == once).all())


@pytest.mark.gpu
@pytest.mark.parametrize("step", ["split", LAST])
def test_products_that_overlap_wait_for_each_other(step):
    import cupy

    x = random_on_gpu(24, 2048)[0]
    # Numbers stay as large as they are, product after product.
    first = random_on_gpu(4096, 2048)[0] / cupy.float16(64)
    second = random_on_gpu(2048, 4096)[0] / cupy.float16(64)

    def chain():
        y = x
        for _ in range(10):
            y = gemm_skinny(gemm_skinny(y, first, step=step), second, step=step)
        return y

    apart = chain()
    with overlapping():
        together = chain()
    assert bool((together == apart).all())
    assert bool(cupy.isfinite(apart).all())


# -- What cannot be multiplied so --------------------------------------------------------------


def on_simulator(*shape, dtype="bfloat16"):
    return to_device(np.zeros(shape, dtype), "sim")


@pytest.mark.parametrize(
    ("M", "K", "dtype", "name"),
    [
        (MOST_ROWS, 16, "bfloat16", "gemm_skinny"),
        (MOST_ROWS + 1, 16, "bfloat16", "gemm_tensorcore"),
        (9, 12, "bfloat16", "gemm_register_tile"),
        (9, 16, "float32", "gemm_pipelined"),
    ],
)
def test_what_it_cannot_multiply_is_multiplied_by_others(M, K, dtype, name):
    launches = []
    with intercept(launches.append):
        gemm_skinny(on_simulator(M, K, dtype=dtype), on_simulator(40, K, dtype=dtype))
    assert launches[0].kernel.py_func.__name__ == name


@pytest.mark.parametrize(
    ("capability", "name"), [("9.0", "gemm_skinny_multicast"), (None, "gemm_skinny")]
)
def test_a_gpu_takes_the_last_step_that_is_for_it(capability, name, monkeypatch):
    if capability:
        monkeypatch.setenv("LLM_NUMBA_SIM_CAPABILITY", capability)
    launches = []
    with intercept(launches.append):
        gemm_skinny(on_simulator(17, 520), on_simulator(72, 520))
    (launch,) = launches
    assert launch.kernel.py_func.__name__ == name


def test_wrong_arguments_are_named():
    x, weight = on_simulator(4, 8), on_simulator(5, 8)
    for arguments, options, named in [
        ((x, weight[:, :5]), {}, "'weight' has shape"),
        ((x, weight), {"residual": x}, "'residual' has shape"),
        ((x, weight), {"activation": "silu_mul"}, "'weight' has 5 rows"),
        ((x, weight), {"step": "fastest"}, "'step' is 'fastest'"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            gemm_skinny(*arguments, **options)


# -- Cuts -----------------------------------------------------------------------------------------


def cuts(M, N=4096, K=4096):
    return candidates((M, N, K), "bfloat16")


@pytest.mark.parametrize("N", [1, 4096, 6144, 28672])
@pytest.mark.parametrize("M", [0, 1, 9, 17, 33, 65, 128])
def test_every_cut_can_be_launched_on_every_gpu_and_the_rule_chooses_one(M, N):
    assert rule((M, N, 4096), "bfloat16") in cuts(M, N)
    limit = min(sm.block_shared_bytes for each, sm in LIMITS.items() if each >= (8, 0))
    for tile in cuts(M, N):
        together = tile.threads // tile.packets
        assert together % 8 == 0  # rows that a thread brings have one swizzle
        assert tile.rows % together == tile.columns % together == 0
        assert max(tile.shared_bytes(tile.stages), joined_bytes(tile)) <= limit
        assert tile.rows >= M
        assert tile.rows % tile.splits == 0  # blocks of a cluster finish as many rows
        assert tile.splits == 1 or 4096 // tile.splits >= 256


def test_rows_that_one_kernel_takes_are_tuned_as_one():
    keys = {TUNABLE.key((M, 64, 64), "float16") for M in (1, 9, 16)}
    assert keys == {"gemm_skinny/float16/16x64x64"}


# -- What they cost, and what must not pass --------------------------------------------------------


def planned(splits=2, shape=(9, 40, 104), tile=SMALL, plan=plan_tile, **options):
    operands = LADDER.operands(shape, np.dtype("float16"), 0)
    plan, *_ = plan(tile._replace(splits=splits), **operands, **options)
    args = (kernel_view(each) if isinstance(each, np.ndarray) else each for each in plan.args)
    return plan._replace(args=tuple(args)), operands


def test_each_weight_is_read_once_and_no_bank_is_met_twice():
    shape = 16, 64, 256
    report = simulate(*planned(1, shape)[0])
    lines = [line for line in report.lines if "gemm_skinny_kernel" in line.file]
    brought = [line for line in lines if line.global_requests and line.shared_requests]
    M, N, K = shape
    # Two tiles of 32 rows of weights, and x for each of them; 32 bytes a sector.
    assert sum(line.global_sectors for line in brought) * 32 == 2 * (N * K + 2 * M * K)
    shared = [line for line in report.lines if line.worst_shared]
    assert {line.worst_shared.kind for line in shared} == {"load", "store"}
    # Finished sums are read in eights of floats by each lane, two lanes to a bank.
    assert {line.max_bank_ways for line in shared if "epilogue" not in line.file} == {1}


@pytest.mark.parametrize("clustered", [False, True])
def test_no_order_of_threads_and_copies_breaks_it(clustered):
    plan, operands = planned(clustered=clustered)
    straight = None
    for seed in range(2):
        simulate(*plan, schedule="random", seed=seed)
        result = np.array(plan.args[-1])
        straight = result if straight is None else straight
        np.testing.assert_array_equal(result, straight)
    if clustered:
        assert cluster_of(plan.kernel) == 2
        assert_near(operands["out"], operands["x"], operands["weight"], u=CUT_OFF)


def test_no_order_of_threads_and_boxes_breaks_it():
    plan, operands = planned(shape=(9, 40, 200), tile=NARROW, plan=plan_streamed)
    for seed in range(2):
        simulate(*plan, schedule="random", seed=seed)
        assert_near(operands["out"], operands["x"], operands["weight"], u=CUT_OFF)


@cuda.jit(device=True)
def do_not_wait(groups):
    """Stand in for the wait that somebody forgot."""


@cuda.jit(device=True)
def do_not_meet():
    """Stand in for the barrier that somebody forgot."""


def planted(function, closed_over=(), **in_ptx):
    """Make the kernel of a function in which some others are replaced."""
    careless = ModuleType("careless")
    vars(careless).update(vars(ptx), **in_ptx)
    names = {**function.__globals__, "ptx": careless}
    cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    closure = tuple(CellType(dict(closed_over).get(name, cell.cell_contents))
                    for name, cell in cells)  # fmt: skip
    return cuda.jit(FunctionType(function.__code__, names, None, None, closure))


def test_a_missing_wait_is_found():
    plan, _ = planned(1)
    with pytest.raises(UninitializedReadError, match=r"before a copy has arrived"):
        simulate(planted(plan.kernel.py_func, cp_async_wait=do_not_wait), *plan[1:])


@pytest.mark.parametrize(("plan", "tile"), [(plan_tile, SMALL), (plan_streamed, NARROW)])
def test_a_missing_meeting_of_the_cluster_is_found(plan, tile):
    plan, _ = planned(2, tile=tile, plan=plan)
    careless = in_clusters(2)(planted(plan.kernel.py_func, {"meet": do_not_meet}))
    with pytest.raises(RaceError):
        simulate(careless, *plan[1:])


@pytest.mark.ptx
def test_sums_and_fragments_of_every_tile_stay_in_registers():
    if problem := compiler_problem():
        pytest.skip(problem)
    # With fewer rows of x there are fewer sums, and the ladder's own kernels are of those.
    tiles = {each._replace(splits=1) for M in (64, 128) for each in cuts(M)}
    assert len(tiles) == 4
    for tile in tiles:
        x, weight, out = on_simulator(8, 512), on_simulator(16, 512), on_simulator(8, 8)
        operands = tile._replace(splits=4), x, weight, out
        for plan, capability in ((plan_tile, (9, 0)), (plan_streamed, (9, 0, "a"))):
            (launch,) = plan(*operands, activation="silu_mul")
            found = resources(launch, capability)
            assert found.stack_bytes == found.spill_stores == found.spill_loads == 0, tile


def test_a_kernel_is_made_once():
    plans = [planned(splits)[0] for splits in (1, 2, 2)]
    assert plans[1].kernel is plans[2].kernel is not plans[0].kernel
