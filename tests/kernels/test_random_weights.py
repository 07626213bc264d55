"""Random weights: the same bits from the kernel as from the reference, in every format."""

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.random_weights import fill_random
from llm_numba.reference.random_weights import SPREAD
from llm_numba.reference.sampling import philox4x32
from llm_numba.runtime import intercept, to_device, to_host, zeros
from llm_numba.runtime.offline import compiler_problem, resources

KEY = 0xFEDCBA9876543210
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])


def by_hand(size, key=KEY):
    """The odd numbers of the formula, one call of the generator at a time."""
    numbers = np.zeros(-(-size // 512) * 512, np.int64)
    for call in range(numbers.size // 16):
        for j in range(16):
            byte = philox4x32((call, 0, 0, 0), key)[j // 4] >> 8 * (j % 4) & 255
            numbers[call // 32 * 512 + 32 * j + call % 32] = 2 * byte - 255
    return numbers[:size]


@pytest.mark.parametrize("size", [1, 33, 512, 1500])
def test_the_reference_follows_the_formula(size):
    found = reference.fill_random(np.zeros(size), KEY, 0.5, centre=3.0)
    np.testing.assert_array_equal(found, 3 + by_hand(size) / 2)


@each_dtype
@pytest.mark.parametrize("shape", [(1,), (31,), (3, 171), (2, 5, 103), (0, 4)])
def test_the_kernel_makes_the_references_bits(shape, dtype, device):
    out = zeros(shape, dtype, device)
    assert fill_random(out, KEY, 2.0**-12) is out
    expected = reference.fill_random(np.zeros(shape, dtype), KEY, 2.0**-12)
    np.testing.assert_array_equal(to_host(out).view("u1"), expected.view("u1"))


@each_dtype
def test_without_a_step_all_numbers_are_the_centre(dtype, device):
    assert to_host(fill_random(zeros(40, dtype, device), KEY, 0.0, centre=1.0)).tolist() == [1] * 40


@each_dtype
@pytest.mark.parametrize("step", [2.0**-16, 2.0**-7])
def test_every_format_holds_the_same_numbers(step, dtype):
    """All 256 values, of the smallest step that a model takes and of one of the largest."""
    found = reference.fill_random(np.zeros(5000, dtype), KEY, step).astype(np.float64)
    assert len(np.unique(found)) == 256
    np.testing.assert_array_equal(found, by_hand(5000) * step)


def test_a_long_array_is_one_sequence_whatever_the_turns_it_is_made_in():
    long = reference.fill_random(np.zeros(1_200_000, np.float32), KEY, 1.0)
    short = reference.fill_random(np.zeros(600_000, np.float32), KEY, 1.0)
    np.testing.assert_array_equal(long[:600_000], short)
    # Each of 256 values is binomial: six standard deviations, for one of them in a million draws.
    counts = np.unique(long, return_counts=True)[1]
    expected = long.size / 256
    assert np.abs(counts - expected).max() < 6 * expected**0.5
    assert abs(long.mean()) < 6 * SPREAD / long.size**0.5


WINDOWS = {
    "rows": (slice(3, 7), slice(None)),
    "one row": (slice(4, 5), slice(None)),
    "columns": (slice(None), slice(100, 171)),
    "the first columns": (slice(None), slice(0, 85)),
    "some of both": (slice(2, 6), slice(31, 65)),
    "nothing": (slice(4, 4), slice(None)),
    "the last number": (slice(8, 9), slice(170, 171)),
}


@each_dtype
@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_has_the_bits_that_the_whole_has_there(window, dtype):
    whole = by_hand(9 * 171).reshape(9, 171)
    window = WINDOWS[window]
    out = np.zeros(whole[window].shape, dtype)
    rows, columns = (each.indices(n)[0] for each, n in zip(window, whole.shape, strict=True))
    place = {"first": rows * 171 + columns, "pitch": 171}
    assert reference.fill_random(out, KEY, 1.0, **place) is out
    np.testing.assert_array_equal(out, whole[window].astype(dtype))


@each_dtype
@pytest.mark.parametrize("window", WINDOWS)
def test_the_kernel_makes_the_references_bits_of_a_window(window, dtype, device):
    rows, columns = (each.indices(n)[:2] for each, n in zip(WINDOWS[window], (9, 171), strict=True))
    shape = rows[1] - rows[0], columns[1] - columns[0]
    place = {"first": rows[0] * 171 + columns[0], "pitch": 171}
    out = zeros(shape, dtype, device)
    assert fill_random(out, KEY, 2.0**-12, **place) is out
    expected = reference.fill_random(np.zeros(shape, dtype), KEY, 2.0**-12, **place)
    np.testing.assert_array_equal(to_host(out).view("u1"), expected.view("u1"))


def test_a_window_without_gaps_begins_anywhere(device):
    out = to_host(fill_random(zeros(700, "float32", device), KEY, 1.0, first=1000))
    np.testing.assert_array_equal(out, by_hand(1700)[1000:])


def test_a_window_far_into_a_long_tensor_is_made_by_itself():
    """Turns of the reference begin where groups do, wherever the window does."""
    whole = reference.fill_random(np.zeros(1_200_000, np.float32), KEY, 1.0)
    found = reference.fill_random(np.zeros(700_000, np.float32), KEY, 1.0, first=333_333)
    np.testing.assert_array_equal(found, whole[333_333:1_033_333])


@pytest.mark.parametrize(("name", "value"), [("first", -1), ("first", 1 << 36), ("pitch", 3)])
def test_windows_outside_of_the_tensor_are_refused(name, value):
    with pytest.raises(KernelArgumentError, match=f"'{name}'"):
        fill_random(zeros((2, 4), "float32", "sim"), KEY, 1.0, **{name: value})


def test_another_key_makes_other_numbers():
    one, other = (reference.fill_random(np.zeros(4096), key, 1.0) for key in (KEY, KEY ^ 1 << 40))
    # Independent numbers of 256 values agree in 16 of 4096 places, give or take 4.
    assert np.count_nonzero(one == other) < 16 + 6 * 4


def test_numbers_that_no_kernel_stores_are_refused(device):
    with pytest.raises(KernelArgumentError, match="'out' has dtype int32"):
        fill_random(zeros(4, "int32", device), KEY, 1.0)


@pytest.mark.ptx
@pytest.mark.parametrize("place", [{}, {"first": 5, "pitch": 9}], ids=["whole", "window"])
def test_the_kernel_compiles_without_float64_and_without_a_stack(place):
    if problem := compiler_problem():
        pytest.skip(problem)
    launches = []
    with intercept(launches.append):
        fill_random(to_device(np.zeros((2, 4), np.float16), "sim"), KEY, 1.0, **place)
    found = resources(launches[0], (9, 0))
    assert (found.stack_bytes, found.spill_stores, found.float64) == (0, 0, ())
