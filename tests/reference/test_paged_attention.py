"""The paged cache must be invisible: what is read back, and attended to, is the contiguous text."""

from itertools import pairwise

import numpy as np
import pytest

from llm_numba import reference

G, D = 2, 3
EXACT = {"rtol": 1e-12, "atol": 1e-13}


class Pages:
    """Sequences of the given lengths, scattered over a cache whose other rows hold rubbish."""

    def __init__(self, lengths, block_size, dtype=np.float64, seed=0):
        rng = np.random.default_rng([*lengths, block_size, seed])
        self.lengths = np.array(lengths)
        self.k, self.v = (
            [rng.normal(size=(length, G, D)).astype(dtype) for length in lengths] for _ in range(2)
        )
        counts = [-(-length // block_size) for length in lengths]
        num_blocks = sum(counts) + 3
        shape = (num_blocks, block_size, G, D)
        self.k_cache, self.v_cache = (rng.normal(0, 1e3, shape).astype(dtype) for _ in range(2))
        shuffled = iter(rng.permutation(num_blocks).tolist())
        # Rows are padded with blocks drawn at random: one's own, another's, nobody's.
        self.tables = rng.integers(num_blocks, size=(len(lengths), max(counts) + 2))
        for b, count in enumerate(counts):
            self.tables[b, :count] = [next(shuffled) for _ in range(count)]
            for p in range(lengths[b]):
                block, row = self.tables[b, p // block_size], p % block_size
                self.k_cache[block, row] = self.k[b][p]
                self.v_cache[block, row] = self.v[b][p]

    def queries(self, counts, num_heads=4, seed=1):
        """Return q of so many new tokens a sequence, and where each sequence's begin."""
        q = np.random.default_rng(seed).normal(size=(sum(counts), num_heads, D))
        return q.astype(self.k_cache.dtype), np.cumsum([0, *counts])

    def attend(self, q, starts, window=None):
        return reference.paged_attention(
            q, self.k_cache, self.v_cache, self.tables, starts, self.lengths, 0.5, window
        )


# -- Reading and writing ------------------------------------------------------------------------


def test_a_token_with_a_negative_slot_is_skipped():
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, 3, G, D))
    k_cache, v_cache = rng.normal(size=(2, 7, 5, G, D))
    expected = k_cache.copy()
    expected[6, 4] = k[1]
    reference.write_kv(k, v, k_cache, v_cache, np.array([-1, 34, -35]))
    np.testing.assert_array_equal(k_cache, expected)
    np.testing.assert_array_equal(v_cache[6, 4], v[1])


@pytest.mark.parametrize("num_tokens", [0, 1, 31])
def test_each_token_is_written_to_its_slot_and_no_other_slot_changes(num_tokens):
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, num_tokens, G, D))
    k_cache, v_cache = rng.normal(size=(2, 7, 5, G, D))
    slots = rng.permutation(35)[:num_tokens]
    expected_k, expected_v = k_cache.copy(), v_cache.copy()
    for n, slot in enumerate(slots.tolist()):
        expected_k[slot // 5, slot % 5] = k[n]
        expected_v[slot // 5, slot % 5] = v[n]
    reference.write_kv(k, v, k_cache, v_cache, slots)
    np.testing.assert_array_equal(k_cache, expected_k)
    np.testing.assert_array_equal(v_cache, expected_v)


@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
def test_what_was_scattered_is_gathered_in_order(block_size):
    pages = Pages([1, 31, 33], block_size)
    for length in (0, 1, 31, 33):
        gathered = reference.gather_kv(pages.k_cache, pages.tables, length)
        assert gathered.shape == (3, length, G, D)
        for b, k in enumerate(pages.k):
            own = min(length, len(k))
            np.testing.assert_array_equal(gathered[b, :own], k[:own])


def test_copied_blocks_equal_their_sources_and_the_rest_stays():
    cache = np.random.default_rng(0).normal(size=(7, 3, G, D))
    before = cache.copy()
    reference.copy_blocks(cache, np.array([4, 0, 4]), np.array([1, 6, 2]))
    for block, source in enumerate([0, 4, 4, 3, 4, 5, 0]):
        np.testing.assert_array_equal(cache[block], before[source])


# -- Attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 7, 33])
@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
@pytest.mark.parametrize(
    ("lengths", "counts"),
    [
        ([31], [31]),
        ([129], [129]),
        ([1], [1]),
        ([1, 33, 31, 7], [1, 1, 1, 1]),
        ([32, 33], [1, 1]),
        ([31, 33, 5], [31, 1, 2]),
        ([40, 2, 1, 131], [3, 2, 1, 130]),
    ],
    ids=str,
)
def test_paged_equals_contiguous(lengths, counts, block_size, window):
    pages = Pages(lengths, block_size)
    q, starts = pages.queries(counts)
    y = pages.attend(q, starts, window)
    assert y.shape == q.shape
    for b, (start, stop) in enumerate(pairwise(starts)):
        alone = reference.causal_attention(q[start:stop], pages.k[b], pages.v[b], 0.5, window)
        np.testing.assert_allclose(y[start:stop], alone, **EXACT)


@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 1, 0], [0, 3, 0], [0, 1, 2]], ids=str)
def test_as_many_new_tokens_as_sequences_need_not_be_one_each(counts):
    pages = Pages([5, 31, 9], 4)
    q, starts = pages.queries(counts)
    y = pages.attend(q, starts)
    for b, (start, stop) in enumerate(pairwise(starts)):
        alone = reference.causal_attention(q[start:stop], pages.k[b], pages.v[b], 0.5)
        np.testing.assert_allclose(y[start:stop], alone, **EXACT)


@pytest.mark.parametrize("window", [None, 5])
def test_the_two_forms_of_decoding_agree(window):
    pages = Pages([1, 33, 31], 4)
    q, starts = pages.queries([1, 1, 1])
    direct = reference.paged_decode_attention(
        q, pages.k_cache, pages.v_cache, pages.tables, pages.lengths, 0.5, window
    )
    np.testing.assert_array_equal(direct, pages.attend(q, starts, window))


@pytest.mark.parametrize("counts", [[1, 1], [1, 4]], ids=str)
@pytest.mark.parametrize("window", [None, 6])
def test_neither_padding_nor_other_blocks_are_seen(counts, window):
    pages = Pages([33, 31], 16)
    q, starts = pages.queries(counts)
    before = pages.attend(q, starts, window)
    used = {int(block) for b in range(2) for block in pages.tables[b, : 3 - b]}
    for cache in (pages.k_cache, pages.v_cache):
        for block in set(range(len(cache))) - used:
            cache[block] = 7e5
        cache[pages.tables[1, 1], 15] = -7e5  # behind the 31st token
        cache[pages.tables[0, 2], 1:] = -7e5  # behind the 33rd
    pages.tables[1, 2:] = 0
    np.testing.assert_array_equal(pages.attend(q, starts, window), before)


@pytest.mark.parametrize("lengths", [[0, 9], [0, 0]], ids=str)
def test_a_row_of_padding_decodes_to_zeros(lengths):
    pages = Pages([9, 9], 4)
    pages.lengths = np.array(lengths)
    q, _ = pages.queries([1, 1])
    out = reference.paged_decode_attention(
        q, pages.k_cache, pages.v_cache, pages.tables, pages.lengths, 0.5
    )
    assert not out[pages.lengths == 0].any()
    assert out[pages.lengths > 0].all()


def test_a_sequence_decodes_the_same_in_any_company():
    alone = Pages([33], 16)
    q, starts = alone.queries([1])
    (result,) = alone.attend(q, starts)
    for others in ([1], [257], [31, 33, 127]):
        crowd = Pages([33, *others], 16)
        rows, starts = crowd.queries([1] * (1 + len(others)))
        rows[0] = q[0]
        for cache, new in ((crowd.k_cache, alone.k[0]), (crowd.v_cache, alone.v[0])):
            for p in range(33):
                cache[crowd.tables[0, p // 16], p % 16] = new[p]
        np.testing.assert_allclose(crowd.attend(rows, starts)[0], result, **EXACT)


@pytest.mark.parametrize("counts", [[1, 1, 1], [1, 31, 2]], ids=str)
def test_float32_stays_float32_and_close_to_float64(counts):
    single, double = (Pages([7, 31, 33], 4, dtype) for dtype in (np.float32, np.float64))
    q, starts = double.queries(counts)
    y = single.attend(q.astype(np.float32), starts)
    assert y.dtype == np.float32
    # Scores here are below 10, so weights are good to about 40 u, outputs to 100 u of the values.
    assert np.abs(y - double.attend(q, starts)).max() < 100 * 2.0**-24 * 4
