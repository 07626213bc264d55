"""Every step of the GEMM ladder against the reference in float64, and what each costs.

The bound on the error is derived in ``gemm_cases``.
"""

import inspect
from types import FunctionType

import numpy as np
import pytest
from gemm_cases import assert_gated, assert_near, numbers
from numba import cuda, float32
from numba.cuda.types import float16

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemm import LADDER, gemm
from llm_numba.kernels.gemm_one_output import gemm_padded, gemm_tiled
from llm_numba.kernels.gemm_register_tile import gemm_register_tile
from llm_numba.runtime import empty, kernel_view, to_device, to_host
from llm_numba.simulator import simulate

STEPS = [step.name for step in LADDER.steps]
each_step = pytest.mark.parametrize("step", STEPS)
each_dtype = pytest.mark.parametrize("dtype", LADDER.dtypes)


def run(x, weight, bias=None, *, device, residual=None, **kwargs):
    def place(each):
        return None if each is None else to_device(each, device)

    y = gemm(place(x), place(weight), place(bias), residual=place(residual), **kwargs)
    return to_host(y)


# -- What it computes ---------------------------------------------------------------------------


@each_step
@pytest.mark.parametrize(
    ("M", "N", "K", "dtype"),
    [
        (1, 1, 1, "float32"),
        (7, 34, 40, "float32"),
        pytest.param(7, 34, 40, "bfloat16", marks=pytest.mark.slow),
        (5, 2, 33, "float16"),
        *(
            pytest.param(*shape, dtype, marks=pytest.mark.slow)
            for shape in [(33, 31, 16), (1, 129, 67), (2, 127, 257), (131, 130, 17), (131, 130, 24)]
            for dtype in LADDER.dtypes
        ),
    ],
)
def test_each_step_is_the_reference(M, N, K, dtype, step, device):
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    assert_near(run(x, weight, device=device, step=step), x, weight)


@pytest.mark.slow
@each_step
@each_dtype
def test_many_tiles_on_a_gpu_and_some_in_the_simulator(dtype, step, device):
    M, N, K = (1000, 1111, 776) if device == "cuda" else (257, 263, 40)
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    assert_near(run(x, weight, device=device, step=step), x, weight)


@each_step
@pytest.mark.parametrize(("M", "N"), [(0, 5), (5, 0), (0, 0)])
def test_no_rows_or_no_columns_make_an_empty_result(M, N, step, device):
    y = run(numbers(M, 3), numbers(N, 3), device=device, step=step)
    assert y.shape == (M, N)


@each_step
def test_the_sum_of_no_products_is_zero_and_the_epilogue_follows(step, device):
    x, weight = numbers(3, 0), numbers(34, 0)
    bias, residual = numbers(34), numbers(3, 34)
    assert (run(x, weight, device=device, step=step) == 0).all()
    y = run(x, weight, bias, residual=residual, device=device, step=step)
    np.testing.assert_array_equal(y, bias + residual)


@pytest.mark.parametrize(
    ("activation", "dtype", "step"),
    [("gelu", "float32", step) for step in STEPS]
    + [(activation, "bfloat16", STEPS[-1]) for activation in ACTIVATIONS],
)
def test_bias_activation_and_residual_follow_in_this_order(activation, dtype, step, device):
    x, weight = numbers(7, 24, dtype=dtype), numbers(37, 24, dtype=dtype)
    bias, residual = numbers(37, dtype=dtype), numbers(7, 37, dtype=dtype)
    y = run(x, weight, bias, activation=activation, residual=residual, device=device, step=step)
    assert_near(y, x, weight, bias, activation, residual)


@pytest.mark.parametrize(
    ("dtype", "step"), [*(("float32", step) for step in STEPS), ("bfloat16", STEPS[-1])]
)
def test_a_gate_multiplies_the_other_half_of_the_columns(dtype, step, device):
    x, weight = numbers(7, 24, dtype=dtype), numbers(2 * 19, 24, dtype=dtype)
    bias, residual = numbers(2 * 19, dtype=dtype), numbers(7, 19, dtype=dtype)
    y = run(x, weight, bias, activation="silu_mul", residual=residual, device=device, step=step)
    assert_gated(y, x, weight, bias, residual)


@pytest.mark.parametrize(("step", "activation"), [("naive", None), ("split_k", "silu_mul")])
def test_the_result_of_halves_may_be_float32(activation, step, device):
    x, weight = numbers(9, 40, dtype="bfloat16"), numbers(34, 40, dtype="bfloat16")
    N = 17 if activation else 34
    residual = numbers(9, N)
    options = {"activation": activation, "step": step, "residual": to_device(residual, device)}
    out = to_device(np.empty((9, N), np.float32), device)
    y = to_host(gemm(to_device(x, device), to_device(weight, device), out=out, **options))
    check = assert_gated if activation else assert_near
    check(y, x, weight, residual=residual, stored="float32")


@pytest.mark.parametrize(
    ("value", "step"),
    [*((np.nan, step) for step in STEPS), (np.inf, STEPS[-1]), (-np.inf, STEPS[-1])],
)
def test_nan_and_infinity_reach_their_row_and_no_other(value, step, device):
    x, weight = numbers(8, 40), np.abs(numbers(33, 40))
    x[7, 39] = value
    y = run(x, weight, device=device, step=step)
    np.testing.assert_array_equal(y[7], np.full(33, value, np.float32))
    assert_near(y[:7], x[:7], weight)


@each_step
def test_what_is_too_large_for_half_precision_becomes_infinite(step, device):
    x, weight = np.full((1, 64), 64, np.float16), np.full((1, 64), 16, np.float16)
    assert run(x, weight, device=device, step=step) == np.inf
    # In float32 the sum passes through 65,536 and comes back.
    x[0, 1::2] *= -1
    x[0, :32] = 64
    x[0, 32:] = -64
    assert run(x, weight, device=device, step=step) == 0


@each_step
def test_the_result_may_go_where_the_residual_is(step, device):
    x, weight, residual = numbers(7, 12), numbers(33, 12), numbers(7, 33)
    out = to_device(residual, device)
    y = gemm(to_device(x, device), to_device(weight, device), residual=out, out=out, step=step)
    assert y is out
    assert_near(to_host(y), x, weight, residual=residual)


def smaller(kernel, **constants):
    """Make the same kernel with other constants: two warps a block, not 8 or 32."""
    function = kernel.py_func
    return cuda.jit(FunctionType(function.__code__, {**function.__globals__, **constants}))


@pytest.mark.parametrize(
    ("kernel", "threads", "tile"),
    [
        (smaller(gemm_tiled, TILE=8), 8, 8),
        (smaller(gemm_padded, TILE=8, PITCH=9), 8, 8),
        (
            smaller(gemm_register_tile, THREADS=8, SLAB=8, THREAD_TILE=2, BLOCK_TILE=16, PITCH=18),
            8,
            16,
        ),
    ],
    ids=["tiled", "padded", "register_tile"],
)
def test_no_order_of_threads_breaks_a_tile(kernel, threads, tile):
    M, N, K = 9, 14, 9
    for seed in range(4):
        x, weight, out = LADDER.operands((M, N, K), np.dtype(np.float32), seed).values()
        args = (x, weight, np.empty(0, np.float32), np.empty((0, 0), np.float32), 0, out)
        grid = (-(-M // tile), -(-N // tile))
        simulate(kernel, grid, (threads, threads), args, schedule="random", seed=seed)
        assert_near(out, x, weight)


@pytest.mark.parametrize("step", ["naive", "coalesced"])
def test_no_order_of_threads_breaks_a_sum(step):
    operands = LADDER.operands((9, 10, 35), np.dtype(np.float32), 0)
    (launch,) = LADDER.step(step).plan(**operands)
    simulate(*launch, schedule="random")
    assert_near(operands["out"], operands["x"], operands["weight"])


def test_wrong_arguments_are_named():
    x, weight = (to_device(numbers(*shape), "sim") for shape in [(4, 6), (5, 6)])
    half = to_device(numbers(5, 6, dtype="float16"), "sim")
    for arguments, options, named in [
        ((x[0], weight), {}, "'x' has 1 axis"),
        ((x.astype(np.int32), weight), {}, "'x' has dtype int32"),
        ((x, weight[0]), {}, "'weight' has shape"),
        ((x, weight[:, :5]), {}, "'weight' has shape"),
        ((x, half), {}, "'weight' has dtype float16"),
        ((x, numbers(5, 6)), {}, "'weight' is a NumPy array"),
        ((x, to_device(numbers(6, 5), "sim").T), {}, "'weight' has strides"),
        ((x, weight, x[0]), {}, "'bias' has shape"),
        ((x, weight), {"residual": x}, "'residual' has shape"),
        ((x, weight), {"activation": "relu"}, "'activation' is 'relu'"),
        ((x, weight), {"out": x}, "'out' has shape"),
        ((x, weight), {"out": empty((4, 5), "float16", like=x)}, "'out' has dtype float16"),
        ((x, weight), {"activation": "silu_mul"}, "'weight' has 5 rows"),
        ((half, half), {"residual": empty((5, 5), "float32", like=x)}, "'residual' has dtype"),
        ((x, weight), {"step": "fastest"}, "'step' is 'fastest'"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            gemm(*arguments, **options)


# -- What it costs, counted by hand ------------------------------------------------------------


def costs(step, shape, dtype="float32"):
    """Run a step; return the report of a line by a piece of its text."""
    operands = LADDER.operands(shape, np.dtype(dtype), 0)
    (launch,) = LADDER.step(step).plan(**operands)
    launch = launch._replace(args=tuple(map(kernel_view_of, launch.args)))
    report = simulate(*launch)
    source, first = inspect.getsourcelines(launch.kernel.py_func)

    def line(text):
        (found,) = [number for number, code in enumerate(source, first) if text in code]
        return report.line(found)

    return line


def kernel_view_of(value):
    return kernel_view(value) if isinstance(value, np.ndarray) else value


STORE = "] = ptx.from_float(c, value)"
PRODUCT = "total += ptx.to_float(a"
TILE_OF_A, TILE_OF_W = "a_tile[ty, tx] = ptx", "w_tile[ty, tx] = ptx"


@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_naive_reads_a_sector_for_each_number_of_a(dtype, itemsize):
    K = 32  # a row of A is several sectors long, so 32 rows are 32 sectors
    line = costs("naive", (32, 8, K), dtype)
    product = line(PRODUCT)
    assert product.global_requests == 8 * K * 2
    assert product.global_sectors == 8 * K * (32 + 1)
    assert line(STORE).global_requests == 8
    # Rows of C are 8 numbers, 32 or 16 bytes: as halves, two share a sector.
    assert line(STORE).global_sectors == 8 * 32 * 8 * itemsize // 32


def test_swapping_lanes_to_columns_only_swaps_the_operands():
    """As textbooks do for B [K, N]: here W [N, K] takes the part of A, and nothing is won."""
    product = costs("naive", (8, 32, 32))(PRODUCT)
    swapped = costs("naive", (32, 8, 32))(PRODUCT)
    # 8 rows of 32 lanes are there, the other 24 take no part: a quarter of the sectors each.
    assert product.global_sectors == 32 * 32 * (8 + 1)
    assert swapped.global_sectors == 8 * 32 * (32 + 1)


@pytest.mark.parametrize(("dtype", "sectors"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_coalesced_uses_every_byte_of_a_sector(dtype, sectors):
    M, N, K = 4, 6, 96
    product = costs("coalesced", (M, N, K), dtype)(PRODUCT)
    assert product.global_requests == M * N * (K // 32) * 2
    assert product.global_sectors == product.ideal_sectors == product.global_requests * sectors


@pytest.mark.parametrize(("step", "ways"), [("tiled", 32), ("padded", 1)])
def test_a_tile_is_loaded_once_for_32_uses_and_columns_conflict_unless_padded(step, ways):
    M, N, K = 64, 32, 64
    line = costs(step, (M, N, K))
    slabs = (M // 32) * (N // 32) * (K // 32)
    for load in (line(TILE_OF_A), line(TILE_OF_W)):
        assert load.global_sectors == load.ideal_sectors == slabs * 32 * 4
        assert load.max_bank_ways == 1
    product = line("total += a_tile")
    assert product.max_bank_ways == ways
    assert product.shared_requests == slabs * 32 * 32 * 2
    # A's number is a broadcast: 1 wavefront, padded or not.
    assert product.shared_wavefronts == slabs * 32 * 32 * (1 + ways)
    multiply_adds = M * N * K
    per_1024 = {"tiled": 1056, "padded": 64}
    assert product.shared_wavefronts * 1024 == multiply_adds * per_1024[step]


def test_a_register_tile_reads_16_numbers_for_64_multiply_adds():
    M, N, K = 128, 128, 32
    line = costs("register_tile", (M, N, K))
    parts = line("a_part[i] = "), line("w_part[i] = ")
    for part in parts:
        assert part.max_bank_ways == 1
        assert part.shared_wavefronts == part.shared_requests
    assert sum(part.shared_wavefronts for part in parts) * 1024 == M * N * K * 8
    for load in (line("a_tile[tx, ty + i] = "), line("w_tile[tx, ty + i] = ")):
        assert load.max_bank_ways == 1
        assert load.global_sectors == load.ideal_sectors == load.global_requests * 4
        assert load.global_sectors * 1024 == M * N * K
    store = line(STORE)
    assert store.global_sectors == store.ideal_sectors == store.global_requests * 4
    for passing in (line("= total[0, j]"), line("finish(a_tile[tx, ty + j]")):
        assert passing.max_bank_ways == 1
        assert passing.shared_requests == (M // 32) * N  # each output once


@pytest.mark.parametrize(
    ("step", "per_1024"),
    [("naive", 1056), ("coalesced", 256), ("tiled", 8), ("padded", 8), ("register_tile", 2)],
)
def test_sectors_for_1024_multiply_adds_are_those_of_the_table(step, per_1024):
    M = N = 128 if step == "register_tile" else 32
    line = costs(step, (M, N, 64))
    texts = {
        "naive": [PRODUCT],
        "coalesced": [PRODUCT],
        "register_tile": ["a_tile[tx, ty + i] = ", "w_tile[tx, ty + i] = "],
    }.get(step, [TILE_OF_A, TILE_OF_W])
    sectors = sum(line(text).global_sectors for text in texts)
    assert sectors * 1024 == M * N * 64 * per_1024


def test_registers_hold_what_a_thread_owns():
    """One output a thread of such a tile would take 16,384 threads."""
    operands = LADDER.operands((128, 128, 16), np.dtype(np.float32), 0)
    (launch,) = LADDER.step("register_tile").plan(**operands)
    report = simulate(*launch)
    assert (report.grid, report.block) == ((1, 1, 1), (16, 16, 1))
    assert report.local_bytes == 4 * (64 + 8 + 8)
    assert report.shared_bytes == 2 * 16 * 130 * 4
    assert gemm_register_tile.targetoptions["launch_bounds"] == (256, 2)


# -- Padding a tile of halves -----------------------------------------------------------------


def read_columns(width):
    """Make a kernel whose warp reads the columns of a tile of 32 rows of halves."""

    @cuda.jit
    def kernel(out):
        lane = cuda.threadIdx.x
        tile = cuda.shared.array((32, width), float16)
        for column in range(width):
            tile[lane, column] = float16(column)
        cuda.syncwarp()
        out[0, lane] = float32(tile[lane, 6])
        out[1, lane] = float32(tile[lane, 7])

    return kernel


@pytest.mark.parametrize(
    ("width", "even", "odd"),
    [
        (32, 16, 16),  # rows of 16 words
        (33, 1, 2),  # one half more
        (34, 1, 1),  # one word more
        (40, 4, 4),  # 16 bytes more: right for loads of 16 bytes, 20 words apart for single ones
    ],
)
def test_a_tile_of_halves_is_padded_by_a_word_and_not_by_a_half(width, even, odd):
    kernel = read_columns(width)
    report = simulate(kernel, 1, 32, (np.zeros((2, 32), np.float32),))
    source, first = inspect.getsourcelines(kernel.py_func)
    (start,) = [k for k, code in enumerate(source) if "out[0, lane]" in code]
    assert report.line(first + start).max_bank_ways == even
    assert report.line(first + start + 1).max_bank_ways == odd
