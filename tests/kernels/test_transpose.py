"""Transposition: every step bit for bit, and what each costs, counted by hand."""

import inspect

import ml_dtypes
import numpy as np
import pytest
from numba import cuda, int32

from llm_numba import reference, runtime
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import ptx, transpose
from llm_numba.kernels.transpose_packets import SQUARES, packets
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate

STEPS = [step.name for step in transpose.LADDER.steps]
SHAPES = [(1, 1), (1, 33), (31, 1), (32, 32), (33, 31), (127, 40), (5, 257), (64, 96), (72, 136)]
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

every_step = pytest.mark.parametrize("step", STEPS)
every_dtype = pytest.mark.parametrize("name", DTYPES)


def random_bits(shape, name):
    """Elements of every kind, NaN of every payload among them."""
    dtype = np.dtype(DTYPES[name])
    return np.random.default_rng(0).bytes(shape[0] * shape[1] * dtype.itemsize), dtype


def matrix(shape, name):
    data, dtype = random_bits(shape, name)
    return np.frombuffer(data, dtype).reshape(shape)


def bits(array):
    return array.view(f"u{array.dtype.itemsize}")


@every_step
@every_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_arrives_bit_for_bit(shape, name, step, device):
    x = matrix(shape, name)
    y = runtime.to_host(transpose.transpose(runtime.to_device(x, device), step=step))
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(bits(y), bits(reference.transpose(x)))


@every_step
def test_more_tiles_than_one_axis_of_a_grid_may_count(step, device):
    # 65535 is the limit of the axes y and z: tall and wide matrices must not meet it.
    if device == "sim":
        (launch,) = transpose.LADDER.step(step).plan(
            x=np.empty((32 * 70_000, 1), np.float16), out=np.empty((1, 32 * 70_000), np.float16)
        )
        assert launch.grid == (70_000,)
        return
    x = matrix((32 * 70_000, 3), "float16")
    y = runtime.to_host(transpose.transpose(runtime.to_device(x, device), step=step))
    np.testing.assert_array_equal(bits(y), bits(reference.transpose(x)))


@every_step
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_nothing_becomes_nothing(shape, step):
    x = runtime.to_device(np.zeros(shape, np.float32), "sim")
    assert transpose.transpose(x, step=step).shape == shape[::-1]


@every_step
@pytest.mark.parametrize("name", ["float32", "float16"])
def test_no_order_of_threads_breaks_a_tile(step, name):
    for seed in range(3):
        operands = transpose.LADDER.operands((40, 33), np.dtype(DTYPES[name]), 0)
        for launch in transpose.LADDER.step(step).plan(**operands):
            simulate(*launch, schedule="random", seed=seed)
        np.testing.assert_array_equal(operands["out"], operands["x"].T)


@pytest.mark.parametrize("name", DTYPES)
def test_no_order_of_threads_breaks_a_tile_of_packets(name):
    x = matrix((24, 40), name)
    for seed in range(3):
        arrays = runtime.to_device(x, "sim"), runtime.empty((40, 24), x.dtype, like=x)
        (launch,) = transpose.LADDER.step("vectorised").plan(*arrays)
        assert launch.kernel is packets(x.dtype.itemsize)
        args = tuple(map(runtime.kernel_view, arrays))
        simulate(launch.kernel, launch.grid, launch.block, args, schedule="random", seed=seed)
        np.testing.assert_array_equal(bits(arrays[1]), bits(x.T))


@pytest.mark.parametrize("name", DTYPES)
def test_arrays_may_begin_anywhere(name, device):
    x = matrix((16, 32), name)
    for skipped in (1, 3):
        memory = runtime.to_device(np.zeros(512 + skipped, x.dtype), device)
        part = memory[skipped:].reshape(x.shape)
        part[...] = runtime.to_device(x, device)
        y = runtime.to_host(transpose.transpose(part))
        np.testing.assert_array_equal(bits(y), bits(x.T))
        part = part.reshape(x.shape[::-1])
        transpose.transpose(runtime.to_device(x, device), out=part)
        np.testing.assert_array_equal(bits(runtime.to_host(part)), bits(x.T))
        assert not runtime.to_host(memory[:skipped]).any()


def test_twice_is_the_identity_and_the_result_may_go_where_the_caller_wants_it(device):
    x = runtime.to_device(matrix((37, 70), "bfloat16"), device)
    out = runtime.empty((70, 37), "bfloat16", like=x)
    assert transpose.transpose(x, out=out) is out
    back = runtime.to_host(transpose.transpose(out))
    np.testing.assert_array_equal(bits(back), bits(runtime.to_host(x)))


def test_wrong_arguments_are_named():
    x = runtime.to_device(np.zeros((4, 6), np.float32), "sim")
    same_shape = runtime.to_device(np.zeros((4, 6), np.float32), "sim")
    half = runtime.to_device(np.zeros((6, 4), np.float16), "sim")
    for arguments, options, named in [
        ((x[0],), {}, "'x' has 1 axis"),
        ((x.astype(np.int32),), {}, "'x' has dtype int32"),
        ((x.T,), {}, "'x' has strides"),
        ((np.zeros((4, 6), np.float32),), {}, "'x' is a NumPy array"),
        ((x,), {"out": same_shape}, "'out' has shape"),
        ((x,), {"out": half}, "'out' has dtype float16"),
        ((x,), {"step": "fastest"}, "'step' is 'fastest'"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            transpose.transpose(*arguments, **options)


# -- What it costs, counted by hand ------------------------------------------------------------

# One tile of 32 x 32 elements and 8 warps: 32 requests in, 32 out.
REQUESTS = 32


def costs(kernel, name, *marks):
    """Run a kernel on one full tile; return the reports of the lines that contain the marks."""
    x = runtime.kernel_view(transpose.LADDER.operands((32, 32), np.dtype(DTYPES[name]), 0)["x"])
    report = simulate(kernel, 1, (transpose.TILE, transpose.ROWS), (x, np.zeros_like(x)))
    source, first = inspect.getsourcelines(kernel.py_func)
    found = [[k for k, text in enumerate(source) if mark in text] for mark in marks]
    return [report.line(first + k) for (k,) in found]


@pytest.mark.parametrize(("name", "sectors"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_naive_writes_a_sector_for_each_element(name, sectors):
    (move,) = costs(transpose.naive, name, "y[n, m] = x[m, n]")
    assert move.global_requests == 2 * REQUESTS
    assert move.global_sectors == REQUESTS * (sectors + 32)
    assert move.ideal_sectors == REQUESTS * (sectors + sectors)


@pytest.mark.parametrize(
    ("kernel", "name", "sectors", "ways"),
    [
        (transpose.tile, "float32", 4, 32),
        (transpose.tile, "float16", 2, 16),
        (transpose.tile, "bfloat16", 2, 16),
        (transpose._PADDED[4], "float32", 4, 1),
        (transpose._PADDED[2], "float16", 2, 1),
        (transpose.swizzled, "float32", 4, 1),
        (transpose.swizzled, "float16", 2, 1),
        (transpose.swizzled, "bfloat16", 2, 1),
    ],
    ids=lambda value: getattr(value, "py_func", np).__name__ if callable(value) else None,
)
def test_a_tile_makes_both_sides_whole_and_its_columns_cost_what_their_banks_say(
    kernel, name, sectors, ways
):
    into, out = costs(kernel, name, "] = x[row + j, column + tx]", "y[column + j, row + tx] = ")
    for side in (into, out):
        assert side.global_requests == side.shared_requests == REQUESTS
        assert side.global_sectors == side.ideal_sectors == REQUESTS * sectors
    assert (into.max_bank_ways, into.shared_wavefronts) == (1, REQUESTS)
    assert (out.max_bank_ways, out.shared_wavefronts) == (ways, REQUESTS * ways)


@pytest.mark.parametrize(
    ("name", "padding", "wavefronts"),
    [
        # 2 bytes: 2 ways in odd columns, of which there are 16, and 1 way in even ones.
        ("float16", 1, 16 * 2 + 16),
        # 4 bytes: rows of 34 words, so that lanes 16 rows apart meet in one bank.
        ("float32", 2, 32 * 2),
    ],
)
def test_padding_by_another_length_than_a_word_leaves_conflicts(name, padding, wavefronts):
    (out,) = costs(transpose._padded(padding), name, "y[column + j, row + tx] = ")
    assert out.max_bank_ways == 2
    assert out.shared_wavefronts == wavefronts


@pytest.mark.parametrize("name", DTYPES)
def test_packets_make_requests_of_512_bytes_and_meet_in_no_bank(name):
    x = matrix((SQUARES * 16 // np.dtype(DTYPES[name]).itemsize,) * 2, name)  # one full tile
    arrays = runtime.to_device(x, "sim"), runtime.empty(x.shape, x.dtype, like=x)
    args = tuple(map(runtime.kernel_view, arrays))
    report = simulate(packets(x.dtype.itemsize), 1, (SQUARES, SQUARES), args)
    requests = x.nbytes // 512
    assert report.global_requests == 2 * requests
    assert report.global_sectors == 2 * 16 * requests
    # Shared memory takes 128 bytes at a time: 4 passes a request, in and out, and no more.
    assert report.shared_requests == 2 * requests
    assert report.shared_wavefronts == 4 * report.shared_requests
    assert max(line.max_bank_ways for line in report.lines) == 1


def test_without_the_swizzle_packets_of_a_column_meet_in_one_bank():
    # In rows of 16 packets, 256 bytes, packets of one column and 8 rows have the same 4 banks.
    words = 4 * SQUARES * SQUARES

    @cuda.jit
    def columns_of_packets(x, y):
        tile = cuda.shared.array(words, int32)
        c, r = cuda.threadIdx.x, cuda.threadIdx.y
        ptx.store_raw16(tile, 4 * (c * SQUARES + r), ptx.load_raw16(x, 4 * (r * SQUARES + c)))
        cuda.syncthreads()
        ptx.store_raw16(y, 4 * (r * SQUARES + c), ptx.load_raw16(tile, 4 * (r * SQUARES + c)))

    x = np.arange(words, dtype=np.int32)
    report = simulate(columns_of_packets, 1, (SQUARES, SQUARES), (x, np.zeros_like(x)))
    assert max(line.max_bank_ways for line in report.lines) == 8


@pytest.mark.ptx
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (10, 0)])
def test_squares_stay_in_registers(capability, name):
    if problem := compiler_problem():
        pytest.skip(problem)
    x = runtime.to_device(matrix((16, 16), name), "sim")
    (launch,) = transpose.LADDER.step("vectorised").plan(x, runtime.empty_like(x))
    found = resources(launch, capability)
    assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
