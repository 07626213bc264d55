"""Tensor cores of a warpgroup in all their formats: A from registers, B along its columns."""

import ml_dtypes  # noqa: F401  teaches NumPy the names of other formats
import numpy as np
import pytest
from numba import cuda, float32, int32, uint8, uint32, uint64
from numba.cuda import types

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import RaceError, UninitializedReadError

THREADS, ROWS, COLUMNS = 128, 64, 24
LINE = 128  # bytes of a row
SHARED = (ROWS + COLUMNS) * LINE + 1024
HOPPER = (9, 0, "a")


@cuda.jit(device=True)
def as_they_are(array):
    """Leave numbers what they are."""
    return array


# What an array of them is made of, and how its numbers are to be taken.
FORMATS = {
    "float16": (types.float16, as_they_are),
    "bfloat16": (types.uint16, as_they_are),
    "float32": (types.float32, as_they_are),
    "float8_e4m3fn": (types.uint8, ptx.e4m3),
    "float8_e5m2": (types.uint8, ptx.e5m2),
    "int8": (types.int8, as_they_are),
}
each_format = pytest.mark.parametrize("dtype", FORMATS)
RIGHT = "nothing"


def putting(columns):
    """Make what writes a warpgroup's [64, columns], as its fragments lie."""
    EIGHTS = columns // 8

    @cuda.jit(device=True)
    def put(acc, out):
        lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x // 32
        row, column = 16 * warp + lane // 4, lane % 4 * 2
        for j in range(EIGHTS):
            for h in range(2):
                for e in range(2):
                    out[row + 8 * h, 8 * j + column + e] = acc[4 * j + 2 * h + e]

    return put


def multiplying(dtype, in_registers, mistake=RIGHT):
    """Make a kernel that multiplies 64 by 24 rows of 128 bytes, which it is given as bytes."""
    (STORED, taken), SUMS = FORMATS[dtype], int32 if dtype == "int8" else float32
    COUNT, put, A_ROWS = COLUMNS // 2, putting(COLUMNS), 0 if in_registers else ROWS
    OVERWRITES, LOOKS, FORGETS = (mistake == each for each in ("overwrites", "looks", "forgets"))

    @cuda.jit
    def kernel(a, words, b, out):
        tiles = cuda.shared.array(0, uint8)
        numbers = taken(cuda.shared.array(0, STORED))
        acc, of_a = cuda.local.array(COUNT, SUMS), cuda.local.array(16, uint32)
        t = cuda.threadIdx.x
        first = -int(ptx.shared_address(tiles, 0)) % 1024
        for i in range(t, (A_ROWS + COLUMNS) * LINE, THREADS):
            row, byte = i // LINE, i % LINE
            place = first + row * LINE + (byte // 16 ^ row % 8) * 16 + byte % 16
            tiles[place] = a[row, byte] if row < A_ROWS else b[row - A_ROWS, byte]
        row, word = t // 32 * 16 + t % 32 // 4, t % 4
        for i in range(15 if FORGETS else 16):
            of_a[i] = words[row + i % 2 * 8, i // 4 * 8 + i // 2 % 2 * 4 + word]
        ptx.fence_async()
        cuda.syncthreads()
        at_a = ptx.matrix_descriptor(tiles, first)
        at_b = ptx.matrix_descriptor(tiles, first + A_ROWS * LINE)
        ptx.wgmma_fence()
        for i in range(4):
            further = uint64(2 * i)
            if in_registers:
                part = of_a[4 * i : 4 * i + 4]
                ptx.wgmma(numbers, acc, part, at_b + further, COLUMNS, i > 0)
            else:
                ptx.wgmma(numbers, acc, at_a + further, at_b + further, COLUMNS, i > 0)
        ptx.wgmma_commit()
        if OVERWRITES and t == 77:
            of_a[5] = uint32(0)
        if LOOKS:
            words[t // 2, t % 2] = of_a[3]
        ptx.wgmma_wait(0)
        put(acc, out)

    return kernel


def operands(dtype):
    """Draw whole numbers that the format holds exactly, and so that sums are exact, too."""
    most = {"int8": 127, "float32": 1023}.get(dtype, 3)
    rng = np.random.default_rng(0)
    length = LINE // np.dtype(dtype).itemsize
    a, b = (rng.integers(-most, most + 1, (n, length)).astype(dtype) for n in (ROWS, COLUMNS))
    sums = np.int32 if dtype == "int8" else np.float32
    return a, b, np.full((ROWS, COLUMNS), 99, sums)


def arguments(a, b, out):
    return a.view(np.uint8), a.view(np.uint32), b.view(np.uint8), out


def exact(a, b):
    return a.astype(np.float64) @ b.astype(np.float64).T


def _skip_unless_hopper(array):
    if not runtime.is_architecture(array, (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")


@each_format
@pytest.mark.parametrize("in_registers", [False, True])
def test_each_format_is_multiplied(dtype, in_registers, device):
    a, b, out = operands(dtype)
    args = [runtime.to_device(each, device) for each in arguments(a, b, out)]
    _skip_unless_hopper(args[0])
    runtime.launch(multiplying(dtype, in_registers), 1, THREADS, tuple(args), SHARED)
    np.testing.assert_array_equal(runtime.to_host(args[-1]), exact(a, b))


@pytest.mark.parametrize("in_registers", [False, True])
def test_of_float32_the_lower_bits_are_cut_off(in_registers, device):
    a, b, out = operands("float32")
    tail = np.random.default_rng(1).integers(0, 2**13, a.shape).astype(np.uint32)
    args = arguments((a.view(np.uint32) | tail).view(np.float32), b, out)
    args = [runtime.to_device(each, device) for each in args]
    _skip_unless_hopper(args[0])
    runtime.launch(multiplying("float32", in_registers), 1, THREADS, tuple(args), SHARED)
    np.testing.assert_array_equal(runtime.to_host(args[-1]), exact(a, b))


@pytest.mark.parametrize(
    ("mistake", "error", "said"),
    [
        ("overwrites", RaceError, "`of_a`, which was written before the tensor cores had read it"),
        ("looks", UninitializedReadError, "`of_a` while tensor cores still work with it"),
        ("forgets", UninitializedReadError, "`of_a`, which nobody has written"),
    ],
)
def test_who_touches_registers_of_a_is_found(mistake, error, said):
    kernel = multiplying("bfloat16", in_registers=True, mistake=mistake)
    with pytest.raises(error, match=said):
        simulate(kernel, 1, THREADS, arguments(*operands("bfloat16")), SHARED)


# -- B along its columns ---------------------------------------------------------------------------

WIDE, DEPTH = 72, 64  # columns: one row of 128 bytes and a part of the next
BLOCK = DEPTH * LINE // 2


def across(STORED, in_registers, leading=DEPTH * LINE):
    """Make a kernel that multiplies A [64, 64] by B [64, 72], each as it lies."""
    COUNT, put, LEADING = WIDE // 2, putting(WIDE), leading

    @cuda.jit
    def kernel(a, words, b, out):
        tiles = cuda.shared.array(0, STORED)
        acc, of_a = cuda.local.array(COUNT, float32), cuda.local.array(16, uint32)
        t = cuda.threadIdx.x
        first = -int(ptx.shared_address(tiles, 0)) % 1024 // 2
        for i in range(t, ROWS * DEPTH, THREADS):
            row, k = i // DEPTH, i % DEPTH
            tiles[first + row * DEPTH + (k // 8 ^ row % 8) * 8 + k % 8] = a[row, k]
        for i in range(t, DEPTH * WIDE, THREADS):
            k, column = i // WIDE, i % WIDE
            place = BLOCK * (1 + column // 64) + k * 64 + (column // 8 % 8 ^ k % 8) * 8
            tiles[first + place + column % 8] = b[k, column]
        row, word = t // 32 * 16 + t % 32 // 4, t % 4
        for i in range(16):
            of_a[i] = words[row + i % 2 * 8, i // 4 * 8 + i // 2 % 2 * 4 + word]
        ptx.fence_async()
        cuda.syncthreads()
        at_a = ptx.matrix_descriptor(tiles, first)
        at_b = ptx.matrix_descriptor_trans(tiles, first + BLOCK, LEADING)
        ptx.wgmma_fence()
        for i in range(4):
            # 16 rows are 2048 bytes, and a descriptor counts 16.
            below = at_b + uint64(128 * i)
            if in_registers:
                ptx.wgmma_trans(tiles, acc, of_a[4 * i : 4 * i + 4], below, WIDE, i > 0)
            else:
                ptx.wgmma_trans(tiles, acc, at_a + uint64(2 * i), below, WIDE, i > 0)
        ptx.wgmma_commit()
        ptx.wgmma_wait(0)
        put(acc, out)

    return kernel


def _product_across(kernel, dtype, device):
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-9, 10, (DEPTH, n)).astype(dtype) for n in (DEPTH, WIDE))
    raw = [each.view(np.uint16) if dtype == "bfloat16" else each for each in (a, b)]
    args = raw[0], a.view(np.uint32), raw[1], np.full((ROWS, WIDE), np.nan, np.float32)
    args = [runtime.to_device(each, device) for each in args]
    _skip_unless_hopper(args[0])
    runtime.launch(kernel, 1, THREADS, tuple(args), 3 * 2 * BLOCK + 1024)
    return runtime.to_host(args[-1]), a.astype(np.float64) @ b.astype(np.float64)


@pytest.mark.parametrize(("dtype", "in_registers"), [("float16", False), ("bfloat16", True)])
def test_b_may_lie_along_its_columns(dtype, in_registers, device):
    kernel = across(FORMATS[dtype][0], in_registers)
    np.testing.assert_array_equal(*_product_across(kernel, dtype, device))


def test_the_next_64_columns_must_be_where_the_descriptor_says():
    got, expected = _product_across(across(types.float16, False, leading=1024), "float16", "sim")
    np.testing.assert_array_equal(got[:, :64], expected[:, :64])
    assert not (got[:, 64:] == expected[:, 64:]).all()


# -- What is compiled --------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    ("dtype", "instruction"),
    [
        ("float32", "m64n24k8.f32.tf32.tf32"),
        ("float8_e4m3fn", "m64n24k32.f32.e4m3.e4m3"),
        ("float8_e5m2", "m64n24k32.f32.e5m2.e5m2"),
        ("int8", "m64n24k32.s32.s8.s8"),
        ("float16", "m64n24k16.f32.f16.f16"),
    ],
)
def test_each_format_is_one_instruction(dtype, instruction):
    sums = types.int32 if dtype == "int8" else types.float32
    signature = types.uint8[:, ::1], types.uint32[:, ::1], types.uint8[:, ::1], sums[:, ::1]
    for in_registers in (False, True):
        text = compile_to_ptx(multiplying(dtype, in_registers), signature, HOPPER)
        assert f"wgmma.mma_async.sync.aligned.{instruction}" in text
        assert ".local" not in text
        assert "0 bytes spill stores" in assemble(text, HOPPER)


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_b_across_is_a_mode_of_the_instruction():
    halves = types.float16[:, ::1]
    signature = halves, types.uint32[:, ::1], halves, types.float32[:, ::1]
    for in_registers, mode in ((False, "1, 1, 0, 1;"), (True, "1, 1, 1;")):
        text = compile_to_ptx(across(types.float16, in_registers), signature, HOPPER)
        assert mode in text
        assemble(text, HOPPER)


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, y, d: ptx.wgmma(y, y, d, d, 40, True), "constant number of columns"),
        (lambda x, y, d: ptx.wgmma(y, x, d, d, 24, True), "adds to a int32 array"),
        (lambda x, y, d: ptx.wgmma(x, x, y, d, 24, True), "descriptor or a local array of uint32"),
        (lambda x, y, d: ptx.wgmma(d, x, d, d, 24, True), "multiplies float16, uint16"),
        (lambda x, y, d: ptx.wgmma_trans(x, x, d, d, 24, True), "multiplies float16, uint16"),
    ],
)
def test_operands_of_wrong_types_are_refused(call, said):
    with pytest.raises(Exception, match=said):
        compile_to_ptx(cuda.jit(call), (types.float32[::1], types.int8[::1], types.uint64), HOPPER)
