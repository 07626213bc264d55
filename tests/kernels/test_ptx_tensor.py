"""A warp's matrix product, in the simulator and on a GPU.

The fragments are filled by the formulas of the PTX ISA, number by number. The twin unfolds whole
arrays instead, so one slip would have to be made twice, in two ways.
"""

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba import cuda, uint32
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.errors import CompileError
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import BarrierDivergenceError

each_dtype = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@cuda.jit(device=True)
def bits_of(array, index):
    """Return two neighbours as a word, the first in its lower half."""
    words = ptx.load_raw16(array, index // 8 * 8)
    word = words[0]
    for i in range(1, 4):
        word = words[i] if index // 2 % 4 == i else word
    return word


@cuda.jit
def multiply(a, b, c, out):
    """A [W, 16, 16], B as its columns [W, 8, 16], C and the result [W, 16, 8], a warp each."""
    warp, lane = cuda.grid(1) // 32, cuda.threadIdx.x % 32
    group, four = lane >> 2, lane & 3
    of_a = cuda.local.array(4, uint32)
    of_b = cuda.local.array(2, uint32)
    for i in range(4):
        row = group if i % 2 == 0 else group + 8
        k = four * 2 if i < 2 else four * 2 + 8
        of_a[i] = bits_of(a, (warp * 16 + row) * 16 + k)
    for i in range(2):
        of_b[i] = bits_of(b, (warp * 8 + group) * 16 + four * 2 + 8 * i)
    at = four * 2
    held = (c[warp, group, at], c[warp, group, at + 1])
    held = (held[0], held[1], c[warp, group + 8, at], c[warp, group + 8, at + 1])
    found = ptx.mma_16x8x16(a, (of_a[0], of_a[1], of_a[2], of_a[3]), (of_b[0], of_b[1]), held)
    for i in range(4):
        out[warp, group if i < 2 else group + 8, at + i % 2] = found[i]


def product(a, b, c, device):
    on_device = [runtime.to_device(each, device) for each in (a, b, c, np.full_like(c, np.nan))]
    runtime.launch(multiply, 1, 32 * len(a), tuple(on_device))
    return runtime.to_host(on_device[-1])


def exact(a, b, c):
    a, b, c = (each.astype(np.float64) for each in (a, b, c))
    return c + a @ b.transpose(0, 2, 1)


@each_dtype
def test_whole_numbers_are_multiplied_exactly(dtype, device):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-15, 16, (3, rows, 16)).astype(dtype) for rows in (16, 8))
    c = rng.integers(-999, 999, (3, 16, 8)).astype(np.float32)
    np.testing.assert_array_equal(product(a, b, c, device), exact(a, b, c))


@each_dtype
def test_sums_are_of_float32(dtype, device):
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(2, rows, 16)).astype(dtype) for rows in (16, 8))
    c = rng.normal(size=(2, 16, 8)).astype(np.float32)
    # 17 numbers are added, each cut off below the last place of the largest.
    magnitudes = exact(np.abs(a), np.abs(b), np.abs(c))
    assert (np.abs(product(a, b, c, device) - exact(a, b, c)) <= 17 * 2.0**-23 * magnitudes).all()


@each_dtype
def test_what_is_no_number_stays_in_its_row_and_column(dtype, device):
    a, b = (np.ones((1, rows, 16)).astype(dtype) for rows in (16, 8))
    c = np.zeros((1, 16, 8), np.float32)
    a[0, 3, 5], b[0, 6, 11] = np.inf, np.nan
    expected = np.full((1, 16, 8), 16, np.float32)
    expected[0, 3], expected[0, :, 6] = np.inf, np.nan
    np.testing.assert_array_equal(product(a, b, c, device), expected)


@cuda.jit
def multiply_by_half_a_warp(x, out):
    if cuda.threadIdx.x < 16:
        zero, number = uint32(0), out[0]
        words = (zero, zero, zero, zero)
        numbers = (number, number, number, number)
        out[0] = ptx.mma_16x8x16(x, words, (zero, zero), numbers)[0]


def test_half_a_warp_waits_in_vain():
    with pytest.raises(BarrierDivergenceError, match="lanes 16 to 31"):
        simulate(multiply_by_half_a_warp, 1, 32, (np.zeros(1, np.uint16), np.zeros(1, np.float32)))


def signature(stored):
    return (
        stored[:, :, ::1],
        stored[:, :, ::1],
        types.float32[:, :, ::1],
        types.float32[:, :, ::1],
    )


# -- Other formats ---------------------------------------------------------------------------------


def multiplying(dtype):
    """Make a kernel that multiplies [16, 32 bytes] by [8, 32 bytes], given as words."""
    element, taken, instruction = {
        "float32": (types.float32, as_they_are, ptx.mma_16x8x8),
        "int8": (types.int8, as_they_are, ptx.mma_16x8x32),
        "float8_e4m3fn": (types.uint8, ptx.e4m3, ptx.mma_16x8x32),
        "float8_e5m2": (types.uint8, ptx.e5m2, ptx.mma_16x8x32),
    }[dtype]

    @cuda.jit
    def kernel(a, b, c, out):
        numbers = taken(cuda.local.array(1, element))
        g, t = cuda.threadIdx.x >> 2, cuda.threadIdx.x & 3
        of_a = a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4]
        held = c[g, 2 * t], c[g, 2 * t + 1], c[g + 8, 2 * t], c[g + 8, 2 * t + 1]
        found = instruction(numbers, of_a, (b[g, t], b[g, t + 4]), held)
        for i in range(4):
            out[g if i < 2 else g + 8, 2 * t + i % 2] = found[i]

    return kernel


@cuda.jit(device=True)
def as_they_are(array):
    """Leave numbers what they are."""
    return array


@pytest.mark.parametrize("dtype", ["float32", "int8", "float8_e4m3fn", "float8_e5m2"])
def test_other_formats_are_multiplied_exactly(dtype, device):
    most = {"float32": 1023, "int8": 127}.get(dtype, 3)
    rng = np.random.default_rng(2)
    sums = np.int32 if dtype == "int8" else np.float32
    length = 32 // np.dtype(dtype).itemsize
    a, b = (rng.integers(-most, most + 1, (n, length)).astype(dtype) for n in (16, 8))
    c = rng.integers(-999, 999, (16, 8)).astype(sums)
    expected = c + a.astype(np.float64) @ b.astype(np.float64).T
    # Bits that tf32 does not have.
    words = a.view(np.uint32) | np.uint32(0x1ABC if dtype == "float32" else 0)
    args = [runtime.to_device(each, device) for each in (words, b.view(np.uint32), c, c + 1)]
    if not runtime.has_capability(args[0], (8, 9) if "float8" in dtype else (8, 0)):
        pytest.skip("this GPU does not multiply such numbers")
    runtime.launch(multiplying(dtype), 1, 32, tuple(args))
    np.testing.assert_array_equal(runtime.to_host(args[-1]), expected)


def test_sums_of_integers_wrap_around():
    a, b = np.full((16, 32), 127, np.int8), np.full((8, 32), 127, np.int8)
    c, out = np.full((16, 8), 2**31 - 1, np.int32), np.zeros((16, 8), np.int32)
    args = a.view(np.uint32), b.view(np.uint32), c, out
    simulate(multiplying("int8"), 1, 32, args)
    assert (out == -(2**31) - 1 + 32 * 127**2).all()


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    ("dtype", "name", "capability", "before"),
    [
        ("float32", "m16n8k8.row.col.f32.tf32.tf32.f32", (8, 0), (7, 5)),
        ("int8", "m16n8k32.row.col.s32.s8.s8.s32", (8, 0), (7, 5)),
        ("float8_e4m3fn", "m16n8k32.row.col.f32.e4m3.e4m3.f32", (8, 9), (8, 6)),
        ("float8_e5m2", "m16n8k32.row.col.f32.e5m2.e5m2.f32", (8, 9), (8, 6)),
    ],
)
def test_each_format_is_one_instruction(dtype, name, capability, before):
    words = types.uint32[:, ::1]
    sums = (types.int32 if dtype == "int8" else types.float32)[:, ::1]
    text = compile_to_ptx(multiplying(dtype), (words, words, sums, sums), capability)
    assert text.count(f"mma.sync.aligned.{name}") == 1
    assemble(text, capability)
    with pytest.raises(CompileError):
        assemble(compile_to_ptx(multiplying(dtype), (words, words, sums, sums), before), before)


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(("stored", "name"), [(types.float16, "f16"), (types.uint16, "bf16")])
def test_it_is_one_instruction_of_those_that_have_it(stored, name):
    text = compile_to_ptx(multiply, signature(stored), (8, 0))
    assert text.count(f"mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32") == 1
    assemble(text, (8, 0))
    with pytest.raises(CompileError):
        assemble(compile_to_ptx(multiply, signature(stored), (7, 5)), (7, 5))


@pytest.mark.parametrize(
    ("instruction", "right", "wrong"),
    [
        (ptx.mma_16x8x16, types.uint16, types.float32),
        (ptx.mma_16x8x8, types.float32, types.float16),
        (ptx.mma_16x8x32, types.int8, types.uint16),
    ],
)
def test_other_types_are_refused(instruction, right, wrong):
    of_a, of_b, of_c = (types.UniTuple(types.uint32, n) for n in (4, 2, 4))
    with pytest.raises(TypingError, match=f"multiplies .*, not array\\({wrong}"):
        instruction._defn(None, wrong[::1], of_a, of_b, of_c)
    with pytest.raises(TypingError, match="takes UniTuple"):
        instruction._defn(None, right[::1], of_a, of_b, of_c)
