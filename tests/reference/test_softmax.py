"""Softmax against exponentials added exactly, and the properties that attention leans on.

Bound: the exponent s x - m carries three roundings of numbers no larger than twice max |s x|, the
exponential and the division a few units in the last place, the sum of T terms at most T.
"""

import math

import numpy as np
import pytest

from llm_numba import reference

floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def true_softmax(row, scale, mask):
    seen = [v * scale for v, keep in zip(row, mask, strict=True) if keep]
    if not seen:
        return [0.0] * len(row)
    top = max(seen)
    total = math.fsum(math.exp(v - top) for v in seen)
    terms = zip(row, mask, strict=True)
    return [math.exp(v * scale - top) / total if keep else 0.0 for v, keep in terms]


@floats
@pytest.mark.parametrize("scale", [1.0, 0.125, -2.0, 0.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (0, 5), (2, 127), (2, 2, 257)])
def test_each_entry_is_its_exponential_over_their_sum(shape, scale, dtype):
    rng = np.random.default_rng(list(shape))
    x = rng.normal(scale=4, size=shape).astype(dtype)
    mask = rng.random(shape) < 0.7
    before = x.copy()
    u = float(np.finfo(dtype).eps) / 2
    for keep in (mask, None):
        y = reference.softmax(x, scale, keep)
        assert y.dtype == dtype
        assert y.shape == shape
        flat_mask = np.ones(shape, bool) if keep is None else keep
        for row, seen, result in zip(
            x.reshape(-1, shape[-1]).astype(float).tolist(),
            flat_mask.reshape(-1, shape[-1]).tolist(),
            y.reshape(-1, shape[-1]).astype(float).tolist(),
            strict=True,
        ):
            largest = max(abs(v * scale) for v in row)
            bound = (shape[-1] + 8 + 12 * largest) * u
            assert result == pytest.approx(true_softmax(row, scale, seen), rel=bound, abs=0)
    np.testing.assert_array_equal(x, before)


@floats
def test_rows_sum_to_one_however_large_the_numbers(dtype):
    x = np.random.default_rng(0).normal(size=(5, 257)).astype(dtype)
    for size in (1, 1e4, 1e30):
        total = reference.softmax(x * dtype(size)).sum(axis=-1)
        np.testing.assert_allclose(total, 1, rtol=257 * np.finfo(dtype).eps)


def test_adding_a_constant_to_a_row_changes_nothing():
    x = np.random.default_rng(0).integers(-9, 9, size=(3, 31)).astype(float)
    np.testing.assert_array_equal(reference.softmax(x + 1024), reference.softmax(x))


def test_a_fully_masked_row_gives_zeros_and_its_neighbours_do_not_care():
    x = np.random.default_rng(0).normal(size=(3, 7))
    mask = np.ones((3, 7), bool)
    mask[1] = False
    y = reference.softmax(x, 1.0, mask)
    assert y[1].tolist() == [0.0] * 7
    np.testing.assert_array_equal(y[[0, 2]], reference.softmax(x[[0, 2]]))
    assert reference.softmax(np.full((2, 3), -np.inf)).tolist() == [[0.0] * 3] * 2


def test_rows_without_entries_are_no_error():
    assert reference.softmax(np.zeros((2, 0)), 1.0, np.zeros((2, 0), bool)).shape == (2, 0)


def test_what_is_masked_may_be_anything():
    x = np.array([[1.0, np.nan, 2.0, np.inf, 1e300]])
    mask = np.array([True, False, True, False, False])
    y = reference.softmax(x, 0.5, mask)
    np.testing.assert_allclose(y[0, [0, 2]], reference.softmax(np.array([0.5, 1.0])), rtol=1e-15)
    assert y[0, [1, 3, 4]].tolist() == [0, 0, 0]


def test_minus_infinity_gets_nothing_and_nan_spoils_its_own_row():
    y = reference.softmax(np.array([[0.0, -np.inf, 0.0], [0.0, np.nan, 0.0]]))
    assert y[0].tolist() == [0.5, 0.0, 0.5]
    assert np.isnan(y[1]).all()


def test_a_mask_is_broadcast_over_the_heads():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    mask = np.tril(np.ones((4, 5), bool))
    whole = reference.softmax(x, 0.3, mask)
    for b in range(2):
        for h in range(3):
            np.testing.assert_array_equal(whole[b, h], reference.softmax(x[b, h], 0.3, mask))


@floats
@pytest.mark.parametrize("size", [1, 31, 257])
def test_log_softmax_is_the_logarithm_of_softmax(size, dtype):
    x = np.random.default_rng(size).normal(scale=4, size=(3, size)).astype(dtype)
    y = reference.log_softmax(x)
    assert y.dtype == dtype
    u = float(np.finfo(dtype).eps) / 2
    for row, result in zip(x.astype(float).tolist(), y.astype(float).tolist(), strict=True):
        top = max(row)
        log_total = top + math.log(math.fsum(math.exp(v - top) for v in row))
        for value, logarithm in zip(row, result, strict=True):
            assert abs(logarithm - (value - log_total)) <= (size + 8 + 8 * abs(top - value)) * u


def test_log_softmax_keeps_what_softmax_rounds_to_zero_and_does_not_overflow():
    x = np.array([[0.0, -2000.0, -np.inf]], np.float32)
    for shift in (0, 2000, -2000):
        assert reference.log_softmax(x + np.float32(shift)).tolist() == [[0.0, -2000.0, -np.inf]]
    assert reference.softmax(np.array([[0.0, -2000.0]], np.float32)).tolist() == [[1.0, 0.0]]
