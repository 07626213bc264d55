"""The instructions that Python has no word for, in the simulator and on a GPU.

Expected values come from other hands: NumPy's float16, ml_dtypes' bfloat16, Python's integers.
"""

import ml_dtypes
import numpy as np
import pytest
from numba import cuda
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import UnsupportedError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FORMATS = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16]

formats = pytest.mark.parametrize("dtype", FORMATS, ids=lambda dtype: dtype.name)


@cuda.jit
def widen_each(x, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = ptx.to_float(x[i])


@cuda.jit
def round_each(x, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = ptx.from_float(out, x[i])


@cuda.jit
def double_by_16_bytes(x, out):
    i = cuda.grid(1) * ptx.items16(x)
    if i < out.size:
        values = ptx.load16(x, i)
        for k in range(len(values)):
            values = ptx.with_item(values, k, ptx.add(values[k], values[k]))
        ptx.store16(out, i, values)


@cuda.jit
def combine_each(a, b, total, largest):
    i = cuda.grid(1)
    if i < a.size:
        total[i] = ptx.add(ptx.widen(a[i]), ptx.widen(b[i]))
        largest[i] = ptx.maximum(ptx.widen(a[i]), ptx.widen(b[i]))


@cuda.jit
def reduce_warp(x, groups, out):
    i = cuda.grid(1)
    mask = groups[i]
    if mask != 0:
        out[0, i] = ptx.redux_add_sync(mask, x[i])
        out[1, i] = ptx.redux_min_sync(mask, x[i])
        out[2, i] = ptx.redux_max_sync(mask, x[i])


def run(kernel, threads, device, *arrays):
    """Run on a device; arrays come back as they are afterwards."""
    on_device = [runtime.to_device(array, device) for array in arrays]
    runtime.launch(kernel, -(-threads // 128), 128, tuple(on_device))
    return [runtime.to_host(array) for array in on_device]


def awkward_floats():
    """Ordinary numbers, ties between neighbours, both ends of the range, and what is no number."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=20_000, dtype=np.uint64).astype(np.uint32)
    bits[:3000] &= 0xFFFF0000  # representable in bfloat16
    bits[3000:6000] = bits[3000:6000] & 0xFFFF0000 | 0x8000  # half way between two of them
    bits[6000:7000] = bits[6000:7000] & 0xFFFF0000 | 0x8001  # just above
    bits[7000:8000] = bits[7000:8000] & 0xFFFF0000 | 0x7FFF  # just below
    random = bits.view(np.float32)
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = halves[:-1] / 2 + halves[1:] / 2  # half way between two float16
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 65504, 65519, 65520], np.float32)
    signalling = np.array([0x7F800001, 0xFF80FFFF, 0x7F7FFFFF], np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        return np.concatenate([random, halves, between, special, signalling])


def assert_same_numbers(result, expected):
    """The same bits, except that any NaN will do for another."""
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    word = f"u{expected.dtype.itemsize}"
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(result[numbers].view(word), expected[numbers].view(word))


@formats
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_every_element_is_widened_exactly(dtype, device):
    every = np.arange(2**16, dtype=np.uint16)
    x = every.view(dtype) if dtype.itemsize == 2 else awkward_floats()
    _, result = run(widen_each, x.size, device, x, np.zeros(x.size, np.float32))
    assert_same_numbers(result, x.astype(np.float32))


@formats
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_rounding_goes_to_the_nearest_and_from_half_way_to_the_even_neighbour(dtype, device):
    x = awkward_floats()
    _, result = run(round_each, x.size, device, x, np.zeros(x.size, dtype))
    assert_same_numbers(result, x.astype(dtype))


@pytest.mark.parametrize("shape", [(8,), (1000,), (7, 24), (3, 5, 8)])
@pytest.mark.parametrize("dtype", [*FORMATS, np.dtype(np.int32)], ids=lambda dtype: dtype.name)
def test_sixteen_bytes_come_and_go_in_order(dtype, shape, device):
    x = np.random.default_rng(0).integers(-99, 99, size=shape).astype(dtype)
    threads = x.size // ptx.VECTOR[dtype.name]
    _, result = run(double_by_16_bytes, threads, device, x, np.zeros(shape, dtype))
    np.testing.assert_array_equal(result, x + x)


@formats
def test_sixteen_bytes_a_thread_are_one_request_a_warp(dtype):
    x = runtime.kernel_view(np.ones(512, dtype))
    count = ptx.VECTOR[dtype.name]
    report = simulate(double_by_16_bytes, 1, 64, (x[: 64 * count], np.zeros_like(x[: 64 * count])))
    # Two warps load and store 32 x 16 bytes each: 16 sectors a request, none half used.
    assert report.global_requests == 4
    assert report.global_sectors == report.ideal_sectors == 64


def test_an_alignment_of_less_than_16_bytes_shows_on_the_host():
    x = runtime.to_device(np.zeros(64, np.float16), "sim")
    assert [ptx.is_aligned16(x[k:]) for k in (0, 1, 4, 8)] == [True, False, False, True]


def test_integers_wrap_and_the_larger_of_nan_and_a_number_is_nan(device):
    a = np.array([2**31 - 1, -(2**31), 5, -7], np.int32)
    b = np.array([1, -1, -5, 7], np.int32)
    # Results of 64 bits would show what did not wrap at 32.
    wide = np.zeros(4, np.int64)
    _, _, total, largest = run(combine_each, 4, device, a, b, wide, wide)
    assert total.tolist() == [-(2**31), 2**31 - 1, 0, 0]
    assert largest.tolist() == [2**31 - 1, -1, 5, 7]

    values = np.array([1, -np.inf, np.inf, np.nan, -2], np.float32)
    a, b = (each.ravel() for each in np.meshgrid(values, values))
    _, _, total, largest = run(
        combine_each, a.size, device, a, b, np.zeros_like(a), np.zeros_like(a)
    )
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(largest, np.maximum(a, b))


@pytest.mark.parametrize(
    "groups",
    [
        [range(32)],
        [range(16), range(16, 32)],
        [range(0, 32, 2), range(1, 32, 2)],
        [[3, 17, 31]],
        [[k] for k in range(32)],
    ],
    ids=["warp", "halves", "even and odd", "three lanes", "alone"],
)
def test_redux_reduces_over_the_lanes_of_the_mask_and_no_others(groups, device):
    if device == "cuda" and cuda.get_current_device().compute_capability < (8, 0):
        pytest.skip("redux.sync came with compute capability 8.0")
    x = np.random.default_rng(0).integers(-(2**31), 2**31, size=128, dtype=np.int32)
    masks = np.zeros(128, np.uint32)
    expected = np.full((3, 128), -1, np.int64)
    for warp in range(0, 128, 32):
        for lanes in groups:
            members = [warp + lane for lane in lanes]
            masks[members] = sum(1 << lane for lane in lanes)
            numbers = [int(number) for number in x[members]]
            wrapped = (sum(numbers) + 2**31) % 2**32 - 2**31
            expected[:, members] = np.array([[wrapped], [min(numbers)], [max(numbers)]])
    result = run(reduce_warp, 128, device, x, masks, np.full((3, 128), -1))[2]
    np.testing.assert_array_equal(result, expected)


# -- What is refused -------------------------------------------------------------------------------

FLOATS, GAPS = types.float32[::1], types.Array(types.float32, 1, "A")


@pytest.mark.parametrize(
    ("intrinsic", "operands", "message"),
    [
        (ptx.to_float, [types.int64], "to_float takes float32, float16 or uint16"),
        (ptx.widen, [types.float64], "widen takes one of"),
        (ptx.from_float, [FLOATS, types.float64], "from_float takes a float32, not float64; wrap"),
        (ptx.from_float, [types.int32[::1], types.float32], "from_float rounds for arrays of"),
        (ptx.items16, [types.float64[::1]], "items16 takes a C-contiguous array"),
        (ptx.load16, [GAPS, types.int64], "load16 takes a C-contiguous array"),
        (
            ptx.store16,
            [FLOATS, types.int64, types.UniTuple(types.float32, 8)],
            "takes 4 values of float32",
        ),
        (
            ptx.with_item,
            [types.UniTuple(types.float32, 4), types.int64, types.float64],
            "with_item cannot put float64",
        ),
        (ptx.add, [types.int32, types.int64], "add takes two float32 or two int32"),
        (ptx.maximum, [types.float32, types.int32], "maximum takes two float32 or two int32"),
        (ptx.redux_add_sync, [types.uint32, types.int64], "redux.sync takes an int32, not int64"),
        (ptx.redux_min_sync, [types.uint32, types.float32], "redux.sync takes an int32"),
        (ptx.redux_max_sync, [types.uint32, types.uint32], "redux.sync takes an int32"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_operands_of_wrong_types_are_refused_with_what_would_be_right(intrinsic, operands, message):
    with pytest.raises(TypingError, match=message):
        intrinsic._defn(None, *operands)


@cuda.jit
def forget_to_wrap_a_literal(x, out):
    out[0] = ptx.from_float(out, ptx.to_float(x[0]) * 2.0)


def test_a_kernel_with_operands_of_wrong_types_does_not_compile():
    x = np.zeros(8, np.float32)
    with pytest.raises(UnsupportedError, match="from_float"):
        simulate(forget_to_wrap_a_literal, 1, 1, (x, np.zeros_like(x)))


# -- What is compiled --------------------------------------------------------------------------


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0)])
@pytest.mark.parametrize("kind", [types.float32, types.float16, types.uint16], ids=str)
def test_nothing_is_computed_in_float64(kind, capability):
    stored, single = kind[::1], types.float32[::1]
    signatures = {
        widen_each: (stored, single),
        round_each: (single, stored),
        double_by_16_bytes: (stored, stored),
        combine_each: (stored, stored, single, single),
    }
    for kernel, arguments in signatures.items():
        assert ".f64" not in compile_to_ptx(kernel, arguments, capability)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("kind", [types.float32, types.float16, types.uint16, types.int32], ids=str)
def test_sixteen_bytes_are_one_load_and_one_store_with_every_item_in_a_register(kind):
    text = compile_to_ptx(double_by_16_bytes, (kind[::1], kind[::1]), (7, 5))
    loads = [line for line in text.splitlines() if "ld.global" in line]
    stores = [line for line in text.splitlines() if "st.global" in line]
    assert len(loads) == len(stores) == 1
    assert ".v4." in loads[0]
    assert ".v4." in stores[0]
    assert ".local" not in text


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
def test_redux_is_one_instruction():
    arguments = (types.int32[::1], types.uint32[::1], types.int64[:, ::1])
    text = compile_to_ptx(reduce_warp, arguments, (8, 0))
    for operation in ("add", "min", "max"):
        assert text.count(f"redux.sync.{operation}.s32") == 1
