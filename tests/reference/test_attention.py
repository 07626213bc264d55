"""Causal attention against one query, one head and one key at a time, and what it may not see.

float32 bound: a score, a sum of D products, is off by (D + 2) u times its absolute terms; a weight
by twice the worst of those and by the softmax's own (T + 8) u; an output by that and by (T + 2) u
for its sum, each times the largest value.
"""

import math

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.reference.attention import QUERY_TILE

EXACT = {"rtol": 1e-12, "atol": 1e-13}


def operands(S, T, H, G, D, dtype=np.float64, seed=0):
    rng = np.random.default_rng([S, T, H, G, D, seed])
    return [rng.normal(size=shape).astype(dtype) for shape in ((S, H, D), (T, G, D), (T, G, D))]


def true_attention(q, k, v, scale, window):
    """Return outputs [S][H][D] and the largest score error in units of u."""
    S, H, D = q.shape
    T, G, _ = k.shape
    queries, keys, values = (a.astype(float).tolist() for a in (q, k, v))
    out, worst = [], 0.0
    for s in range(S):
        position = T - S + s
        first = 0 if window is None else max(0, position - window + 1)
        heads = []
        for h in range(H):
            g = h // (H // G)
            seen = range(first, position + 1)
            scores = []
            for t in seen:
                terms = [a * b for a, b in zip(queries[s][h], keys[t][g], strict=True)]
                scores.append(sum(terms) * scale)
                worst = max(worst, (D + 2) * scale * sum(map(abs, terms)))
            top = max(scores)
            weights = [math.exp(score - top) for score in scores]
            total = sum(weights)
            heads.append(
                [
                    sum(w * values[t][g][d] for w, t in zip(weights, seen, strict=True)) / total
                    for d in range(D)
                ]
            )
        out.append(heads)
    return np.array(out).reshape(S, H, D), worst


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("S", "T", "H", "G", "D", "window"),
    [
        (1, 1, 1, 1, 1, None),
        (1, 257, 4, 2, 8, None),
        (31, 33, 6, 3, 5, None),
        (127, 127, 2, 1, 2, None),
        (128, 129, 1, 1, 3, None),
        (129, 131, 2, 2, 2, 33),
        (257, 257, 1, 1, 2, 127),
        (5, 31, 3, 1, 7, 1),
        (2, 5, 2, 2, 1, 100),
    ],
)
def test_each_query_mixes_the_values_that_it_sees(S, T, H, G, D, window, dtype):
    q, k, v = operands(S, T, H, G, D, dtype)
    scale = 0.7 / math.sqrt(D)
    y = reference.causal_attention(q, k, v, scale, window)
    truth, worst_score = true_attention(q, k, v, scale, window)
    assert y.shape == (S, H, D)
    assert y.dtype == dtype
    u = float(np.finfo(dtype).eps) / 2
    bound = (2 * worst_score + 2 * T + 10) * u * np.abs(v).max()
    assert np.abs(y - truth).max() <= bound


@pytest.mark.parametrize("S", [QUERY_TILE - 1, QUERY_TILE, QUERY_TILE + 1, 2 * QUERY_TILE + 1])
@pytest.mark.parametrize("window", [None, 1, 100, QUERY_TILE, 300])
def test_tiles_of_queries_leave_no_seam(S, window):
    # Each query alone is a tile of one row; together they fill tiles, to a row more or less.
    q, k, v = operands(S, S + 5, 2, 1, 3)
    whole = reference.causal_attention(q, k, v, 0.5, window)
    for s in (0, 1, QUERY_TILE - 2, QUERY_TILE - 1, QUERY_TILE, 2 * QUERY_TILE, S - 1):
        if s < S:
            stop = 5 + s + 1
            alone = reference.causal_attention(q[s : s + 1], k[:stop], v[:stop], 0.5, window)
            np.testing.assert_allclose(whole[s], alone[0], **EXACT)


def test_no_query_sees_a_later_key():
    q, k, v = operands(257, 260, 2, 2, 3)
    before = reference.causal_attention(q, k, v, 0.5)
    for position in (3, 100, 130, 131, 258):
        later_k, later_v = k.copy(), v.copy()
        later_k[position + 1 :] = np.nan
        later_v[position + 1 :] = -1e6
        after = reference.causal_attention(q, later_k, later_v, 0.5)
        seen = position - 3 + 1  # the first query is at position 3
        np.testing.assert_array_equal(after[:seen], before[:seen])
        assert not np.array_equal(after[seen:], before[seen:])


@pytest.mark.parametrize("window", [1, 31, 128, 129])
def test_no_query_sees_further_back_than_the_window(window):
    q, k, v = operands(200, 257, 2, 1, 3)
    before = reference.causal_attention(q, k, v, 0.5, window)
    for s in (0, 1, 127, 128, 199):
        oldest = max(0, 57 + s - window + 1)
        k_old, v_old = k.copy(), v.copy()
        k_old[:oldest], v_old[:oldest] = np.nan, -1e6
        after = reference.causal_attention(q, k_old, v_old, 0.5, window)
        np.testing.assert_array_equal(after[s:], before[s:])
        k_old[oldest] += 1
        assert window == 1 or not np.array_equal(
            reference.causal_attention(q, k_old, v_old, 0.5, window)[s], before[s]
        )


def test_a_window_of_one_returns_each_value_and_a_wide_one_changes_nothing():
    q, k, v = operands(33, 40, 4, 2, 3)
    np.testing.assert_array_equal(
        reference.causal_attention(q, k, v, 0.5, 1), v[7:].repeat(2, axis=1)
    )
    free = reference.causal_attention(q, k, v, 0.5)
    np.testing.assert_array_equal(reference.causal_attention(q, k, v, 0.5, 40), free)
    assert not np.array_equal(reference.causal_attention(q, k, v, 0.5, 39), free)


@pytest.mark.parametrize(("H", "G"), [(6, 1), (6, 2), (6, 3), (8, 4)])
def test_grouped_heads_equal_kv_heads_repeated_for_each_query_head(H, G):
    q, k, v = operands(31, 37, H, G, 5)
    repeated_k, repeated_v = (a.repeat(H // G, axis=1) for a in (k, v))
    np.testing.assert_allclose(
        reference.causal_attention(q, k, v, 0.5, 13),
        reference.causal_attention(q, repeated_k, repeated_v, 0.5, 13),
        **EXACT,
    )


def test_a_query_of_zeros_takes_the_mean_and_a_strong_one_takes_its_match():
    _, k, v = operands(1, 31, 1, 1, 4)
    mean = reference.causal_attention(np.zeros((1, 1, 4)), k, v, 0.5)
    np.testing.assert_allclose(mean[0], v.mean(axis=0), **EXACT)
    k = np.eye(31)[:, None, :]
    v = np.random.default_rng(1).normal(size=(31, 1, 31))
    match = reference.causal_attention(1e3 * k[17:18], k, v, 1.0)
    np.testing.assert_array_equal(match[0], v[17])


def test_the_order_of_the_keys_before_a_query_does_not_matter():
    q, k, v = operands(1, 127, 2, 1, 3)
    order = np.random.default_rng(0).permutation(127)
    np.testing.assert_allclose(
        reference.causal_attention(q, k[order], v[order], 0.5),
        reference.causal_attention(q, k, v, 0.5),
        **EXACT,
    )


@pytest.mark.parametrize("window", [None, 20])
def test_a_prompt_in_chunks_equals_the_prompt_in_one_piece(window):
    q, k, v = operands(131, 131, 4, 2, 3)
    whole = reference.causal_attention(q, k, v, 0.5, window)
    start = 0
    for stop in (1, 2, 33, 34, 130, 131):
        piece = reference.causal_attention(q[start:stop], k[:stop], v[:stop], 0.5, window)
        np.testing.assert_allclose(piece, whole[start:stop], **EXACT)
        start = stop


def test_no_query_gives_no_output_and_no_operand_is_written_to():
    q, k, v = operands(5, 7, 2, 1, 3)
    before = [a.copy() for a in (q, k, v)]
    assert reference.causal_attention(q[:0], k, v, 0.5).shape == (0, 2, 3)
    reference.causal_attention(q, k, v, 0.5)[:] = 0
    for array, copy in zip((q, k, v), before, strict=True):
        np.testing.assert_array_equal(array, copy)
