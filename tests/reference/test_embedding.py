"""Embedding is a gather: every row is the table's own, bit for bit."""

import numpy as np
import pytest

from llm_numba import reference

floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@floats
@pytest.mark.parametrize("num_tokens", [0, 1, 31, 257])
def test_each_token_gets_its_row_of_the_table(dtype, num_tokens):
    rng = np.random.default_rng(num_tokens)
    weight = rng.normal(size=(127, 33)).astype(dtype)
    token_ids = rng.integers(127, size=num_tokens)
    y = reference.embedding(token_ids, weight)
    assert y.shape == (num_tokens, 33)
    assert y.dtype == dtype
    for row, token in zip(y, token_ids, strict=True):
        assert row.tolist() == weight[int(token)].tolist()


def test_a_token_outside_the_table_is_an_error():
    with pytest.raises(IndexError):
        reference.embedding(np.array([7]), np.zeros((7, 2)))


@floats
def test_learned_positions_are_added_to_the_token_rows(dtype):
    rng = np.random.default_rng(0)
    weight, positions_weight = (rng.normal(size=(rows, 5)).astype(dtype) for rows in (31, 13))
    token_ids, positions = rng.integers(31, size=33), rng.integers(13, size=33)
    y = reference.embedding_with_positions(token_ids, positions, weight, positions_weight)
    assert y.dtype == dtype
    for n in range(33):
        for e in range(5):
            assert y[n, e] == weight[token_ids[n], e] + positions_weight[positions[n], e]


def test_changing_the_result_leaves_the_table_alone():
    weight = np.ones((3, 2))
    reference.embedding(np.array([1, 1]), weight)[:] = 0
    reference.embedding_with_positions(np.array([1]), np.array([2]), weight, weight)[:] = 0
    assert weight.tolist() == [[1, 1]] * 3
