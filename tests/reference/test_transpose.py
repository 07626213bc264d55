"""Transposition against its definition."""

import numpy as np
import pytest

from llm_numba import reference


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (31, 33), (0, 7), (7, 0)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32])
def test_each_entry_moves_to_the_other_side_of_the_diagonal(shape, dtype):
    x = np.arange(shape[0] * shape[1]).reshape(shape).astype(dtype)
    y = reference.transpose(x)
    assert y.dtype == dtype
    assert y.shape == shape[::-1]
    assert y.flags.c_contiguous
    assert y.tolist() == [[x[m, n] for m in range(shape[0])] for n in range(shape[1])]


def test_the_result_is_memory_of_its_own():
    for shape in ((1, 4), (4, 1), (3, 3)):
        x = np.ones(shape)
        reference.transpose(x)[...] = 0
        assert x.all()
