"""Row sums and maxima against exact arithmetic."""

import math

import numpy as np
import pytest

from llm_numba import reference

floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@floats
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (2, 257), (0, 4)])
def test_a_row_sum_is_within_a_rounding_a_term_of_the_exact_one(shape, dtype):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    result = reference.row_sum(x)
    assert result.dtype == dtype
    assert result.shape == shape[:1]
    u = float(np.finfo(dtype).eps) / 2
    for row, total in zip(x.tolist(), result.tolist(), strict=True):
        assert total == pytest.approx(math.fsum(row), abs=shape[1] * u * sum(map(abs, row)))


@floats
def test_a_row_maximum_is_one_of_the_entries_and_none_is_larger(dtype):
    x = np.random.default_rng(0).normal(size=(5, 33)).astype(dtype)
    result = reference.row_max(x)
    assert result.dtype == dtype
    assert result.tolist() == [max(row) for row in x.tolist()]


def test_nan_spoils_its_own_row_and_infinities_count():
    x = np.array([[1, np.nan, 2], [-np.inf, 3, np.inf], [-np.inf, -np.inf, -np.inf]])
    np.testing.assert_array_equal(reference.row_max(x), [np.nan, np.inf, -np.inf])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(reference.row_sum(x), [np.nan, np.nan, -np.inf])


def test_integers_wrap_and_keep_their_type():
    x = np.array([[2**31 - 1, 1], [-5, 3]], np.int32)
    assert reference.row_sum(x).tolist() == [-(2**31), -2]
    assert reference.row_max(x).tolist() == [2**31 - 1, 3]
    assert reference.row_sum(x).dtype == reference.row_max(x).dtype == np.int32


def test_rows_without_entries_give_what_changes_nothing():
    assert reference.row_sum(np.zeros((2, 0))).tolist() == [0, 0]
    assert reference.row_max(np.zeros((2, 0))).tolist() == [-np.inf] * 2
    assert reference.row_sum(np.zeros((2, 0), np.int32)).tolist() == [0, 0]
    assert reference.row_max(np.zeros((2, 0), np.int32)).tolist() == [-(2**31)] * 2
