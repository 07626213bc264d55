"""Sixteen bytes with hints, as raw words and as zeros, and the power of 2 in one instruction."""

import ml_dtypes
import numpy as np
import pytest
from numba import cuda, float32
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import OutOfBoundsError, RaceError

DTYPES = [np.dtype(name) for name in ("float32", "float16", "bfloat16", "int32")]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)


@cuda.jit
def copy_streamed(x, out):
    i = cuda.grid(1) * ptx.items16(x)
    if i < out.size:
        ptx.store16_stream(out, i, ptx.load16_stream(x, i))


@cuda.jit
def copy_raw(x, out):
    i = cuda.grid(1) * ptx.items16(x)
    if i < out.size:
        ptx.store_raw16(out, i, ptx.load_raw16(x, i))


@cuda.jit
def copy_every_other(x, out):
    i = cuda.grid(1) * ptx.items16(x)
    if i < out.size:
        there = cuda.grid(1) % 2 == 0
        ptx.store_raw16(out, i, ptx.load_raw16_or_zeros(x, i if there else -1, there))


@cuda.jit
def widen_raw(x, out):
    i = cuda.grid(1) * ptx.items16(x)
    if i < out.size:
        values = ptx.widen_raw16(x, ptx.load_raw16(x, i))
        for k in range(len(values)):
            out[i + k] = values[k]


@cuda.jit
def store_zeros(out):
    i = cuda.grid(1) * ptx.items16(out)
    if i < out.size:
        ptx.store16(out, i, ptx.zeros16(out))


@cuda.jit
def powers(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = ptx.exp2(x[i])


def run(kernel, threads, device, *arrays):
    """Run on a device; arrays come back as they are afterwards."""
    on_device = [runtime.to_device(array, device) for array in arrays]
    runtime.launch(kernel, -(-threads // 64), 64, tuple(on_device))
    return [runtime.to_host(array) for array in on_device]


@cuda.jit
def round_raw(x, out):
    i = cuda.grid(1) * ptx.items16(x)
    if i < out.size:
        ptx.store_raw16(out, i, ptx.round_raw16(out, ptx.load16(x, i)))


@each_dtype
def test_numbers_are_rounded_to_the_words_that_a_store_makes(dtype, device):
    x = np.random.default_rng(0).integers(-99, 99, size=1000).astype(dtype)
    _, out = run(round_raw, x.size // ptx.VECTOR[dtype.name], device, x, np.zeros_like(x))
    np.testing.assert_array_equal(out, x)


def any_bits(dtype, count=1000):
    """Elements of every pattern, numbers or not."""
    raw = np.random.default_rng(0).integers(0, 256, size=count * dtype.itemsize, dtype=np.uint8)
    return raw.view(dtype)


@each_dtype
@pytest.mark.parametrize("kernel", [copy_streamed, copy_raw], ids=["streamed", "raw"])
def test_what_is_loaded_is_stored(kernel, dtype, device):
    numbers = np.random.default_rng(0).integers(-99, 99, size=1000).astype(dtype)
    x = any_bits(dtype) if kernel is copy_raw else numbers
    _, out = run(kernel, x.size // ptx.VECTOR[dtype.name], device, x, np.zeros_like(x))
    assert out.tobytes() == x.tobytes()


@each_dtype
def test_nothing_is_loaded_where_nothing_is_there(dtype, device):
    x = np.random.default_rng(0).integers(1, 99, size=1008).astype(dtype)
    count = ptx.VECTOR[dtype.name]
    _, out = run(copy_every_other, x.size // count, device, x, np.ones_like(x))
    there = np.arange(x.size) // count % 2 == 0
    np.testing.assert_array_equal(out, np.where(there, x, 0).astype(dtype))


@each_dtype
def test_raw_words_are_widened_as_a_load_widens_them(dtype, device):
    x = np.random.default_rng(0).integers(-99, 99, size=1000).astype(dtype)
    wide = np.int32 if dtype == np.int32 else np.float32
    _, out = run(widen_raw, x.size // ptx.VECTOR[dtype.name], device, x, np.zeros(x.size, wide))
    np.testing.assert_array_equal(out, x.astype(wide))


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=lambda dtype: dtype.name)
def test_zeros_fill_sixteen_bytes(dtype, device):
    (out,) = run(store_zeros, 64, device, np.full(512, 7, dtype))
    count = 64 * ptx.VECTOR[dtype.name]
    assert not out[:count].any()
    assert (out[count:] == 7).all()


def test_powers_of_2_are_within_the_error_that_is_stated(device):
    x = np.linspace(-126, 127.9, 20_000).astype(np.float32)
    _, out = run(powers, x.size, device, x, np.zeros_like(x))
    exact = np.exp2(x.astype(np.float64))
    assert np.abs(out / exact - 1).max() <= 2.0**-22


def test_powers_of_2_at_the_ends_of_the_range(device):
    x = np.array([-np.inf, -150, -126.5, 0, -0.0, 128, np.inf, np.nan], np.float32)
    _, out = run(powers, x.size, device, x, np.zeros_like(x))
    np.testing.assert_array_equal(out, [0, 0, 0, 1, 1, np.inf, np.inf, np.nan])


@cuda.jit
def reciprocals(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = ptx.reciprocal(x[i])


def test_reciprocals_are_within_the_error_that_is_stated(device):
    x = np.concatenate([np.linspace(1, 4, 10_000), np.logspace(-37, 37, 5_000)]).astype(np.float32)
    x = np.concatenate([x, -x])
    _, out = run(reciprocals, x.size, device, x, np.zeros_like(x))
    exact = 1 / x.astype(np.float64)
    assert (np.abs(out - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all()


def test_reciprocals_at_the_ends_of_the_range(device):
    x = np.array([0, -0.0, 1e-40, -1e-40, 2e38, np.inf, -np.inf, np.nan], np.float32)
    _, out = run(reciprocals, x.size, device, x, np.zeros_like(x))
    np.testing.assert_array_equal(out, [np.inf, -np.inf, np.inf, -np.inf, 0, 0, -0.0, np.nan])


@cuda.jit
def stream_what_another_thread_writes(x, out):
    i = cuda.threadIdx.x * 4
    x[(i + 4) % x.size] = float32(1)
    ptx.store16_stream(out, i, ptx.load16_stream(x, i))


def test_a_streamed_load_is_watched_like_any_other():
    x = np.zeros(256, np.float32)
    with pytest.raises(RaceError, match=r"`?x`?"):
        simulate(stream_what_another_thread_writes, 1, 64, (x, np.zeros_like(x)))
    with pytest.raises(OutOfBoundsError):
        simulate(copy_streamed, 1, 32, (x[:100], np.zeros_like(x)))


# -- What is refused -------------------------------------------------------------------------------

FLOATS, GAPS = types.float32[::1], types.Array(types.float32, 1, "A")
RAW = types.UniTuple(types.uint32, 4)


@pytest.mark.parametrize(
    ("intrinsic", "operands", "message"),
    [
        (ptx.load16_stream, [GAPS, types.int64], "load16_stream takes a C-contiguous array"),
        (ptx.load_raw16, [GAPS, types.int64], "load_raw16 takes a C-contiguous array"),
        (ptx.store16_stream, [FLOATS, types.int64, RAW], "takes 4 values of float32"),
        (
            ptx.store_raw16,
            [FLOATS, types.int64, types.UniTuple(types.float32, 4)],
            "takes 4 uint32 as load_raw16",
        ),
        (ptx.widen_raw16, [FLOATS, types.UniTuple(types.int64, 4)], "takes 4 uint32"),
        (ptx.round_raw16, [FLOATS, RAW], "takes 4 values of float32"),
        (ptx.zeros16, [types.int32[::1]], "zeros16 makes floats"),
        (ptx.exp2, [types.float64], "exp2 takes a float32, not float64; wrap it"),
        (ptx.reciprocal, [types.int64], "reciprocal takes a float32, not int64; wrap it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_operands_of_wrong_types_are_refused_with_what_would_be_right(intrinsic, operands, message):
    with pytest.raises(TypingError, match=message):
        intrinsic._defn(None, *operands)


# -- What is compiled --------------------------------------------------------------------------


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize("kind", [types.float32, types.uint16], ids=str)
def test_hints_reach_the_instructions(kind, capability):
    text = compile_to_ptx(copy_streamed, (kind[::1], kind[::1]), capability)
    assert text.count("ld.global.nc.L1::no_allocate.v4.u32") == 1
    assert text.count("st.global.cs.v4.u32") == 1
    assemble(text, capability)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("kind", [types.float16, types.uint16], ids=str)
def test_raw_words_are_moved_and_not_converted(kind):
    text = compile_to_ptx(copy_raw, (kind[::1], kind[::1]), (9, 0))
    moves = [line for line in text.splitlines() if "global.v4" in line]
    assert len(moves) == 2
    assert "cvt.rn" not in text
    assert "shl.b32" not in text


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize(
    ("kernel", "instruction"),
    [(powers, "ex2.approx.ftz.f32"), (reciprocals, "rcp.approx.ftz.f32")],
)
def test_what_is_approximate_is_one_instruction(kernel, instruction):
    text = compile_to_ptx(kernel, (FLOATS, FLOATS), (7, 5))
    assert text.count(instruction) == 1
    assert "mul.f32" not in text


@cuda.jit
def round_pairs(x, out):
    i = cuda.grid(1) * 8
    a, b = ptx.load16(x, i), ptx.load16(x, i + 4)
    ptx.store16(out, i, (a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]))


@cuda.jit
def round_one(x, out):
    out[0] = ptx.from_float(out, x[0])


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
def test_bfloat16_is_rounded_by_one_instruction_where_the_gpu_has_it():
    arguments = (FLOATS, types.uint16[::1])
    # In this order: what was compiled for an old GPU must not be kept for a new one.
    for capability, count in (((7, 5), 0), ((8, 0), 1), ((10, 0), 1), ((7, 5), 0)):
        text = compile_to_ptx(round_pairs, arguments, capability)
        assert text.count("cvt.rn.bf16x2.f32") == 4 * count
        assemble(text, capability)
        text = compile_to_ptx(round_one, arguments, capability)
        assert text.count("cvt.rn.bf16.f32") == count
        assert "nvvm_reflect" not in text
        assemble(text, capability)


def test_pairs_are_rounded_side_by_side(device):
    x = np.random.default_rng(0).normal(size=512).astype(np.float32)
    _, out = run(round_pairs, 64, device, x, np.zeros(512, ml_dtypes.bfloat16))
    np.testing.assert_array_equal(out, x.astype(ml_dtypes.bfloat16))
