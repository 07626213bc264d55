"""The scaled sum and the histogram against their definitions."""

import numpy as np
import pytest

from llm_numba import reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saxpy_is_a_multiple_of_one_vector_and_the_other(dtype):
    x, y = np.array([1, -2, 0.5], dtype), np.array([0.25, 4, -8], dtype)
    z = reference.saxpy(2, x, y)
    assert z.dtype == dtype
    assert z.tolist() == [2.25, 0, -7]
    assert reference.saxpy(2, x[:0], y[:0]).shape == (0,)


@pytest.mark.parametrize("bins", [1, 7, 64])
def test_each_bin_counts_its_number_and_what_lies_outside_counts_nowhere(bins):
    values = np.random.default_rng(0).integers(-3, 70, size=500, dtype=np.int32)
    counts = reference.histogram(values, bins)
    assert counts.dtype == np.int32
    assert counts.tolist() == [values.tolist().count(b) for b in range(bins)]
    assert reference.histogram(values[:0], bins).tolist() == [0] * bins
