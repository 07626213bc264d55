"""Arrays of several ranks added up: in their order, in float32, and rounded once."""

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.rank_sums import combine_parts
from llm_numba.runtime import to_device, to_host

FLOATS = ["float32", "float16", "bfloat16"]


def numbers(*shape, dtype="float32", seed=0):
    """Numbers of several sizes, whose sum shows in which order they were added."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-1, 2, shape)
    # What a negative number becomes in unsigned ones is known of integers alone.
    return (values.astype(np.int64) if np.dtype(dtype).kind in "iu" else values).astype(dtype)


@pytest.mark.parametrize("op", ["sum", "max"])
@pytest.mark.parametrize("dtype", [*FLOATS, "float64", "int8", "uint16", "int32", "int64"])
@pytest.mark.parametrize("shape", [(1, 8), (2, 3), (3, 5, 7), (4, 2, 64), (8, 1031)])
def test_the_bits_are_the_reference_s(shape, dtype, op, device):
    parts = numbers(*shape, dtype=dtype)
    result = to_host(combine_parts(to_device(parts, device), op))
    expected = reference.combine_parts(parts, op)
    assert result.dtype == expected.dtype == np.dtype(dtype)
    assert result.tobytes() == expected.tobytes()


def test_the_reference_adds_from_the_first_to_the_last_and_rounds_once():
    # 1 is half of a bfloat16's last place at 256: rounded each time, every sum stays 256.
    parts = np.array([[256], [1], [1], [1]], "bfloat16")
    assert reference.combine_parts(parts)[0] == 260  # 259, to even
    # In float32 the order shows: 1 is lost beside 1e8, and not beside 0.
    assert reference.combine_parts(np.float32([[1e8], [-1e8], [1]]))[0] == 1
    assert reference.combine_parts(np.float32([[1], [1e8], [-1e8]]))[0] == 0


def test_integers_wrap_around(device):
    parts = np.int8([[100], [100]])
    assert to_host(combine_parts(to_device(parts, device))).tolist() == [-56]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["sum", "max"])
def test_nan_of_any_rank_is_nan(dtype, op, device):
    parts = np.ones((3, 16), dtype)
    parts[0, 0] = parts[1, 5] = parts[2, 15] = np.nan
    result = to_host(combine_parts(to_device(parts, device), op)).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(result), np.isin(np.arange(16), [0, 5, 15]))


def test_arrays_may_begin_anywhere_and_the_result_may_be_given(device):
    memory = to_device(numbers(49), device)
    parts, out = memory[1:33].reshape(2, 16), to_device(np.zeros(16, np.float32), device)
    expected = reference.combine_parts(to_host(parts))
    assert combine_parts(parts, out=out) is out
    np.testing.assert_array_equal(to_host(out), expected)


def test_wrong_arguments_are_named(device):
    parts = to_device(numbers(2, 8), device)
    for changes, words in [
        ({"parts": to_device(np.zeros((2, 8), bool), device)}, "'parts' has dtype"),
        ({"op": "mean"}, "'op' is 'mean'"),
        ({"out": to_device(numbers(2, 8), device)}, "'out' has shape"),
    ]:
        with pytest.raises(KernelArgumentError, match=words):
            combine_parts(**({"parts": parts} | changes))
