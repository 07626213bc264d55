"""Every step of the ladder on tensor cores against the reference in float64, and what each costs.

The bound on the error is derived in ``gemm_cases``.
"""

import itertools
from types import CellType, FunctionType, ModuleType

import numpy as np
import pytest
from gemm_cases import U, assert_gated, assert_near, numbers
from numba import cuda

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_tensorcore import LADDER, TUNABLE, gemm_tensorcore
from llm_numba.kernels.gemm_tensorcore_pieces import padded, swizzled
from llm_numba.kernels.gemm_tensorcore_pipelined import raster
from llm_numba.kernels.gemm_tensorcore_plans import obstacle, plan_pipelined
from llm_numba.kernels.gemm_tensorcore_staged import staged
from llm_numba.kernels.gemm_tensorcore_tiles import (
    LARGE,
    LONG,
    SPECK,
    SQUARE,
    Tile,
    candidates,
    lengthened,
    rule,
)
from llm_numba.kernels.gemm_tensorcore_turns import bunched, interleaved
from llm_numba.runtime import empty, intercept, kernel_view, launch_all, to_device, to_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import UninitializedReadError

STEPS = [step.name for step in LADDER.steps]
LAST = STEPS[-1]
each_step = pytest.mark.parametrize("step", STEPS)
CUT_OFF = 2 * U
SMALL_LONG = Tile(32, 64, 32, 32, 64, 3, 1)  # slabs of 64, as no step's small tile has


def run(x, weight, bias=None, *, device, residual=None, **options):
    def place(each):
        return None if each is None else to_device(each, device)

    operands = place(x), place(weight), place(bias)
    return to_host(gemm_tensorcore(*operands, residual=place(residual), **options))


def run_tile(tile, x, weight, bias=None, *, activation=None, residual=None, group=2):
    """Run one cut in the simulator."""
    N = len(weight) // (2 if activation == "silu_mul" else 1)
    out = to_device(np.full((len(x), N), np.nan, x.dtype), "sim")
    given = [None if each is None else to_device(each, "sim") for each in (bias, residual)]
    options = {"bias": given[0], "activation": activation, "residual": given[1], "group": group}
    launch_all(plan_pipelined(tile, to_device(x, "sim"), to_device(weight, "sim"), out, **options))
    return np.asarray(out)


# -- What it computes ---------------------------------------------------------------------------


@each_step
@pytest.mark.parametrize(
    ("M", "N", "K", "dtype"),
    [
        (1, 1, 8, "bfloat16"),
        (7, 34, 40, "float16"),
        (35, 42, 72, "bfloat16"),
        *(
            pytest.param(*shape, dtype, marks=pytest.mark.slow)
            for shape in [(1, 129, 2048), (131, 264, 136), (257, 40, 264)]
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


@each_step
def test_the_sum_of_no_products_is_zero_and_the_epilogue_follows(step, device):
    x, weight = numbers(3, 0, dtype="float16"), numbers(34, 0, dtype="float16")
    bias, residual = numbers(34, dtype="float16"), numbers(3, 34, dtype="float16")
    y = run(x, weight, bias, residual=residual, device=device, step=step)
    sums = bias.astype(np.float32) + residual.astype(np.float32)
    np.testing.assert_array_equal(y, sums.astype(np.float16))


@pytest.mark.parametrize(
    ("activation", "step", "N"),
    [("gelu", step, 40) for step in STEPS] + [("silu", LAST, 37), ("gelu_tanh", LAST, 40)],
)
def test_bias_activation_and_residual_follow_in_this_order(activation, step, N, device):
    x, weight = numbers(7, 24, dtype="bfloat16"), numbers(N, 24, dtype="bfloat16")
    bias, residual = numbers(N, dtype="bfloat16"), numbers(7, N, dtype="bfloat16")
    y = run(x, weight, bias, activation=activation, residual=residual, device=device, step=step)
    assert_near(y, x, weight, bias, activation, residual, u=CUT_OFF)


@pytest.mark.parametrize(
    ("step", "F"), [*((step, 24) for step in STEPS), (LAST, 19), ("grouped", 40)]
)
def test_a_gate_multiplies_the_other_half_of_the_columns(step, F, device):
    x, weight = numbers(35, 24, dtype="bfloat16"), numbers(2 * F, 24, dtype="bfloat16")
    bias, residual = numbers(2 * F, dtype="bfloat16"), numbers(35, F, dtype="bfloat16")
    y = run(x, weight, bias, activation="silu_mul", residual=residual, device=device, step=step)
    assert_gated(y, x, weight, bias, residual, u=CUT_OFF)


@pytest.mark.parametrize("activation", [None, "silu_mul"])
@pytest.mark.parametrize("N", [34, 48])
def test_the_result_may_be_float32(N, activation, device):
    x, weight = numbers(9, 40, dtype="bfloat16"), numbers(N, 40, dtype="bfloat16")
    residual = numbers(9, N // 2 if activation else N)
    out = to_device(np.empty(residual.shape, np.float32), device)
    y = run(x, weight, residual=residual, activation=activation, out=out, device=device)
    check = assert_gated if activation else assert_near
    check(y, x, weight, residual=residual, stored="float32", u=CUT_OFF)


@pytest.mark.parametrize(
    ("value", "step"),
    [*((np.nan, step) for step in STEPS), (np.inf, LAST), (-np.inf, LAST)],
)
def test_nan_and_infinity_reach_their_row_and_no_other(value, step, device):
    x, weight = numbers(8, 40, dtype="bfloat16"), np.abs(numbers(33, 40, dtype="bfloat16"))
    x[7, 39] = value
    y = run(x, weight, device=device, step=step)
    np.testing.assert_array_equal(y[7].astype(np.float32), np.full(33, value, np.float32))
    assert_near(y[:7], x[:7], weight, u=CUT_OFF)


@pytest.mark.parametrize("tile", [SPECK, SMALL_LONG], ids=["slabs of 32", "slabs of 64"])
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("activation", [None, "silu_mul"])
def test_tiles_slabs_and_parts_cover_all_of_the_product(tile, splits, activation):
    """Three by three tiles and more, a last slab that is not whole, and an empty last part."""
    x, weight = numbers(70, 136, dtype="float16"), numbers(136, 136, dtype="float16")
    y = run_tile(tile._replace(splits=splits), x, weight, activation=activation)
    check = assert_gated if activation else assert_near
    check(y, x, weight, u=CUT_OFF)


def test_an_output_has_the_same_bits_in_every_cut_that_leaves_k_whole():
    x, weight = numbers(40, 72, dtype="float16"), numbers(40, 72, dtype="float16")
    once = run_tile(SPECK, x, weight)
    np.testing.assert_array_equal(run_tile(SMALL_LONG, x, weight), once)
    np.testing.assert_array_equal(run_tile(SPECK, x[3:9], weight), once[3:9])


# -- On a GPU: large, odd, and again and again ---------------------------------------------------


def random_on_gpu(*shape):
    import cupy

    rng = cupy.random.default_rng(shape[0])
    halves = rng.standard_normal(shape, dtype=cupy.float32).astype(cupy.float16)
    return halves, cupy.asnumpy(halves)


@pytest.mark.gpu
@pytest.mark.parametrize("K", [8, 4088])
@pytest.mark.parametrize(("M", "N"), [*itertools.product([1, 7, 127, 129, 4095], repeat=2)])
def test_large_and_odd_shapes_on_a_gpu(M, N, K):
    """Sampled rows and columns in float64; whatever is not written would still be NaN."""
    (x, x_host), (weight, weight_host) = random_on_gpu(M, K), random_on_gpu(N, K)
    rows, columns = (np.unique(np.linspace(0, n - 1, 40).astype(int)) for n in (M, N))
    for step in ("grouped", "interleaved", LAST):
        out = to_device(np.full((M, N), np.nan, np.float16), "cuda")
        y = to_host(gemm_tensorcore(x, weight, out=out, step=step))
        assert not np.isnan(y).any()
        assert_near(y[np.ix_(rows, columns)], x_host[rows], weight_host[columns], u=CUT_OFF)


@pytest.mark.gpu
@pytest.mark.parametrize("step", STEPS)
def test_a_hundred_repeats_are_bit_identical(step):
    import cupy

    x, weight = random_on_gpu(300, 2048)[0], random_on_gpu(520, 2048)[0]
    once = gemm_tensorcore(x, weight, step=step)
    out = cupy.empty_like(once)
    for _ in range(100):
        out.fill(cupy.nan)
        gemm_tensorcore(x, weight, out=out, step=step)
        assert bool((out == once).all())


# -- What cannot be multiplied so --------------------------------------------------------------


def on_simulator(*shape, dtype="bfloat16", shift=0):
    memory = to_device(np.zeros(int(np.prod(shape)) + shift, dtype), "sim")
    return memory[shift:].reshape(shape)


def test_what_tensor_cores_cannot_multiply_is_named_and_multiplied_by_others(monkeypatch):
    whole, shifted = on_simulator(40, 16), on_simulator(40, 16, shift=1)
    out = on_simulator(40, 40, shift=1)
    for operands, word in [
        ((on_simulator(40, 16, dtype="float32"),) * 2, "not float32"),
        ((on_simulator(40, 12),) * 2, "no whole packets"),
        ((whole, shifted), "does not begin"),
        ((whole, whole, None, out), "does not begin"),
    ]:
        x, weight, *others = operands
        assert word in obstacle(x, weight, *others)
        launches = []
        with intercept(launches.append):
            gemm_tensorcore(x, weight, out=others[-1] if others else None)
        assert "tensorcore" not in launches[0].kernel.py_func.__name__
    assert obstacle(whole, whole) is None
    plans = "llm_numba.kernels.gemm_tensorcore_plans"
    monkeypatch.setattr(f"{plans}.REACH", 640)
    assert "more numbers than" in obstacle(whole, whole)
    monkeypatch.setattr(f"{plans}.REACH", 2**31)
    monkeypatch.setattr(f"{plans}.has_capability", lambda array, least: False)
    assert "older than" in obstacle(whole, whole)


def test_wrong_arguments_are_named():
    x, weight = on_simulator(4, 8), on_simulator(5, 8)
    for arguments, options, named in [
        ((x, weight[:, :5]), {}, "'weight' has shape"),
        ((x, weight), {"residual": x}, "'residual' has shape"),
        ((x, weight), {"activation": "silu_mul"}, "'weight' has 5 rows"),
        ((x, weight), {"step": "fastest"}, "'step' is 'fastest'"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            gemm_tensorcore(*arguments, **options)


# -- Cuts -----------------------------------------------------------------------------------------

SHAPES = [
    (8192, 8192, 8192), (512, 4096, 4096), (64, 4096, 4096), (33, 128256, 4096), (9, 64, 64),
    (3, 4, 8), (200, 30, 4096), (1, 4096, 4096), (128, 128, 0), (0, 5, 8),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_cut_can_be_launched_on_every_gpu_and_the_rule_chooses_one(shape):
    cuts = candidates(shape, "bfloat16")
    assert rule(shape, "bfloat16") in cuts
    limit = min(sm.block_shared_bytes for each, sm in LIMITS.items() if each >= (8, 0))
    for tile in (*cuts, LARGE):
        together = tile.threads // tile.packets
        assert together % 8 == 0  # rows that a thread brings have one swizzle
        assert tile.rows % together == tile.columns % together == 0
        assert tile.shared_bytes(tile.stages) <= limit
        assert (tile.warp_rows % 16, tile.warp_columns % 16) == (0, 0)
        assert tile.splits == 1 or shape[2] // tile.splits >= 256
    assert TUNABLE.key((65, 64, 64), "float16") == "gemm_tensorcore/float16/128x64x64"


def test_large_tiles_have_longer_slabs_where_shared_memory_has_room_for_their_blocks():
    roomy = {
        tile: {at for at, sm in LIMITS.items() if lengthened(tile, sm.block_shared_bytes) != tile}
        for tile in (LARGE, SQUARE)
    }
    assert roomy[LARGE] == {(8, 0), (8, 7), (9, 0), (10, 0), (10, 3)}
    assert roomy[SQUARE] == {(9, 0), (10, 0), (10, 3)}
    most = max(sm.block_shared_bytes for sm in LIMITS.values())
    assert lengthened(LARGE._replace(splits=4), most) == LONG._replace(splits=4)
    assert lengthened(SPECK, most) == SPECK


@pytest.mark.parametrize(("down", "across", "group"), [(5, 3, 2), (4, 7, 4), (1, 3, 8), (7, 1, 3)])
def test_blocks_in_groups_meet_each_tile_once(down, across, group):
    places = [raster.py_func(block, down, across, group) for block in range(down * across)]
    assert sorted(places) == [(i, j) for i in range(down) for j in range(across)]
    if group >= down:
        assert places[:down] == [(i, 0) for i in range(down)]


# -- What they cost, and what must not pass --------------------------------------------------------


def planned(step, shape=(64, 64, 64), dtype="bfloat16"):
    operands = LADDER.operands(shape, np.dtype(dtype), 0)
    (plan,) = LADDER.step(step).plan(**operands)
    args = (kernel_view(each) if isinstance(each, np.ndarray) else each for each in plan.args)
    return plan._replace(args=tuple(args)), operands


def loads_of(lines):
    """The lines that load from shared memory in the loop: not finished sums, at the end."""
    loads = [line for line in lines if line.worst_shared and line.worst_shared.kind == "load"]
    return [line for line in loads if "epilogue" not in line.file]


def test_swizzled_rows_meet_no_bank_twice_and_ldmatrix_takes_a_quarter_of_the_loads():
    words = loads_of(simulate(*planned("fragments")[0]).lines)
    matrices = loads_of(simulate(*planned("ldmatrix")[0]).lines)
    for loads in (words, matrices):
        assert {line.max_bank_ways for line in loads} == {1}
    # Eight warps, four times 16 numbers of K, and four fragments of A and two of W.
    fragments = 8 * 4 * (4 + 2)
    counts = [sum(line.shared_requests for line in loads) for loads in (words, matrices)]
    assert counts == [4 * fragments, fragments]
    # The same bytes go by, in as many passes.
    passes = [sum(line.shared_wavefronts for line in loads) for loads in (words, matrices)]
    assert passes == [4 * fragments, 4 * fragments]


def test_copies_of_a_slab_meet_no_bank_twice():
    report = simulate(*planned("staged")[0])
    copies = [line for line in report.lines if line.global_requests and line.shared_requests]
    issued = [line for line in copies if line.worst_global.kind == "load"]
    assert issued
    assert {line.max_bank_ways for line in issued} == {1}


@pytest.mark.parametrize("layout", [padded, swizzled])
@pytest.mark.parametrize("tile", [SPECK, SMALL_LONG])
def test_every_packet_has_a_place_of_its_own(tile, layout):
    place = layout(tile).place.py_func
    rows = tile.rows + tile.columns
    places = {place(row, packet) for row in range(rows) for packet in range(tile.packets)}
    assert len(places) == rows * tile.packets


@pytest.mark.parametrize("step", ["staged", "grouped", "interleaved"])
def test_no_order_of_threads_and_copies_breaks_a_step(step):
    plan, operands = planned(step, (9, 10, 104), "float16")
    for seed in range(2):
        simulate(*plan, schedule="random", seed=seed)
        assert_near(operands["out"], operands["x"], operands["weight"], u=CUT_OFF)


@cuda.jit(device=True)
def do_not_wait(groups):
    """Stand in for the wait that somebody forgot."""


def careless(function):
    """Copy a function, and the device functions that it was made with, but wait for nothing."""
    names = ModuleType("names")
    vars(names).update(vars(ptx), cp_async_wait=do_not_wait)
    made_with = [cell.cell_contents for cell in function.__closure__ or ()]
    cells = [
        cuda.jit(careless(each.py_func), device=True) if hasattr(each, "py_func") else each
        for each in made_with
    ]
    return FunctionType(
        function.__code__,
        {**function.__globals__, "ptx": names},
        None,
        function.__defaults__,
        tuple(map(CellType, cells)),
    )


@pytest.mark.parametrize("step", ["staged", "grouped", "interleaved"])
def test_a_missing_wait_is_found(step):
    plan, _ = planned(step, (9, 10, 104), "float16")
    with pytest.raises(UninitializedReadError, match=r"before a copy has arrived"):
        simulate(cuda.jit(careless(plan.kernel.py_func)), *plan[1:])


@pytest.mark.ptx
@pytest.mark.parametrize("gated", [False, True])
def test_sums_and_fragments_of_every_tile_stay_in_registers(gated):
    if problem := compiler_problem():
        pytest.skip(problem)
    tiles = {tile._replace(splits=1) for shape in SHAPES for tile in candidates(shape, "float16")}
    assert len(tiles) > 4
    # The gate's own code is at the end, and the same for all: the largest tile has least room.
    long = {lengthened(tile, 2**20) for tile in tiles}
    cuts = [(tile, None) for tile in ([LARGE, LONG] if gated else tiles | long)]
    for tile, turning in [*cuts, (LARGE, interleaved), (LONG, bunched)]:
        x, weight = on_simulator(8, 16), on_simulator(16, 16)
        out = on_simulator(8, 8 if gated else 16)
        options = {"activation": "silu_mul" if gated else None, "turning": turning}
        (launch,) = plan_pipelined(tile, x, weight, out, **options)
        found = resources(launch, (9, 0))
        assert found.stack_bytes == found.spill_stores == found.spill_loads == 0, tile


def test_a_kernel_is_made_once():
    assert staged("float16", SPECK) is staged("float16", SPECK)
    x = on_simulator(40, 16)
    plans = [plan_pipelined(SPECK._replace(splits=n), x, x, empty((40, 40), x.dtype, like=x))
             for n in (2, 4)]  # fmt: skip
    assert plans[0][0].kernel is plans[1][0].kernel
