r"""Causal attention with grouped KV heads, over contiguous or paged keys and values.

.. math:: O = \mathrm{softmax}\left(\frac{Q K^T}{\sqrt D} + \text{mask}\right) V

Query head h reads KV head h // (H/G). A query at position p sees keys at positions
p - window < t <= p (all t <= p without a window). 4 S T D FLOPs a query head, half of that when
S = T; decoding one token reads every key and value of its context once.

References
----------
Vaswani et al., "Attention Is All You Need", 2017; Ainslie et al., "GQA", 2023; Jiang et al.,
"Mistral 7B", 2023 (sliding window); Kwon et al., SOSP 2023 (paged).
"""

import numpy as np

from llm_numba.reference.kv import gather_kv
from llm_numba.reference.rope import rope_and_write_kv
from llm_numba.reference.softmax import softmax

# Queries of a long prompt are taken in tiles of this many rows, so that the scores of a tile,
# [H, tile, T], stay small and keys past the tile's last row are never touched.
QUERY_TILE = 128


def causal_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, window: int | None = None
) -> np.ndarray:
    """Attend from each of the last S of T positions to itself and to those before it.

    Parameters
    ----------
    q : float [S, H, D]
    k, v : float [T, G, D]
        T >= S; G divides H.
    scale : float
        Usually 1/sqrt(D).
    window : int, optional
        How many positions a query sees, itself included; at least 1.

    Returns
    -------
    float [S, H, D]
    """
    num_queries, num_heads, head_dim = q.shape
    num_keys, num_kv_heads, _ = k.shape
    past = num_keys - num_queries
    out = np.empty_like(q)
    for start in range(0, num_queries, QUERY_TILE):
        stop = min(start + QUERY_TILE, num_queries)
        first = 0 if window is None else max(0, past + start - window + 1)
        positions = np.arange(past + start, past + stop)[:, None]
        keys = np.arange(first, past + stop)
        mask = keys <= positions
        if window is not None:
            mask &= keys > positions - window
        # [rows, H, D] -> [G, rows * H/G, D]: one product a KV head serves its whole group.
        tile = q[start:stop].reshape(stop - start, num_kv_heads, -1, head_dim)
        tile = tile.transpose(1, 2, 0, 3).reshape(num_kv_heads, -1, head_dim)
        scores = tile @ k[first : past + stop].transpose(1, 2, 0)
        scores = scores.reshape(num_heads, stop - start, -1)
        weights = softmax(scores, scale, mask).reshape(num_kv_heads, -1, len(keys))
        mixed = weights @ v[first : past + stop].transpose(1, 0, 2)
        out[start:stop] = mixed.reshape(num_heads, stop - start, head_dim).transpose(1, 0, 2)
    return out


def paged_decode_attention(
    q: np.ndarray,
    k_cache: np.ndarray,
    v_cache: np.ndarray,
    block_tables: np.ndarray,
    context_lens: np.ndarray,
    scale: float,
    window: int | None = None,
) -> np.ndarray:
    """Attend from one new token of each sequence to its own paged context.

    Parameters
    ----------
    q : float [B, H, D]
    k_cache, v_cache : float [num_blocks, block_size, G, D]
    block_tables : int [B, W]
        Rows shorter than W are padded with any valid block.
    context_lens : int [B]
        Keys of each sequence, the new token's own included; 0 for a row of padding.
    scale : float
    window : int, optional

    Returns
    -------
    float [B, H, D]
        Zeros for a row of padding.
    """
    batch, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    length = int(context_lens.max())
    k = gather_kv(k_cache, block_tables, length)
    v = gather_kv(v_cache, block_tables, length)
    grouped = q.reshape(batch, num_kv_heads, -1, head_dim)
    scores = grouped @ k.transpose(0, 2, 3, 1)
    mask = None
    if window is not None or context_lens.min() < length:
        keys = np.arange(length)
        mask = keys < context_lens[:, None]
        if window is not None:
            mask &= keys >= context_lens[:, None] - window
        mask = mask[:, None, None, :]
        # Past a context lies what others left there, and a weight of 0 times NaN is NaN.
        v[keys >= context_lens[:, None]] = 0
    mixed = softmax(scores, scale, mask) @ v.transpose(0, 2, 1, 3)
    return mixed.reshape(batch, num_heads, head_dim)


def rope_and_decode_attention(
    qkv: np.ndarray,
    positions: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    k_cache: np.ndarray,
    v_cache: np.ndarray,
    slot_mapping: np.ndarray,
    block_tables: np.ndarray,
    context_lens: np.ndarray,
    scale: float,
    window: int | None = None,
) -> np.ndarray:
    """Turn queries and keys, write keys and values, and attend, one new token a sequence.

    Parameters
    ----------
    qkv : float [B, (H + 2G) D]
        Of each token all queries, then all keys, then all values.
    positions : int [B]
        The last of each context.
    cos, sin : float [T, d/2]
        From :func:`~llm_numba.reference.rope.rope_tables`.
    k_cache, v_cache : float [num_blocks, block_size, G, D]
        Written in place.
    slot_mapping : int [B]
        Where `block_tables` have that position.
    block_tables, context_lens, scale, window
        As of :func:`paged_decode_attention`.

    Returns
    -------
    float [B, H, D]
    """
    q = rope_and_write_kv(qkv, positions, cos, sin, k_cache, v_cache, slot_mapping)
    return paged_decode_attention(q, k_cache, v_cache, block_tables, context_lens, scale, window)


def paged_attention(
    q: np.ndarray,
    k_cache: np.ndarray,
    v_cache: np.ndarray,
    block_tables: np.ndarray,
    query_starts: np.ndarray,
    context_lens: np.ndarray,
    scale: float,
    window: int | None = None,
    *,
    batch_invariant: bool = False,
) -> np.ndarray:
    """Attend from the new tokens of each sequence, however many, to its own paged context.

    Parameters
    ----------
    q : float [N, H, D]
        The new tokens of all sequences, one sequence after the other.
    k_cache, v_cache : float [num_blocks, block_size, G, D]
    block_tables : int [B, W]
    query_starts : int [B + 1]
        Sequence b owns rows ``query_starts[b]`` to ``query_starts[b + 1]`` of q.
    context_lens : int [B]
        Keys of each sequence, its new tokens included.
    scale : float
    window : int, optional
    batch_invariant : bool
        Make what a token gets independent of how many others there are, to the bit.

    Returns
    -------
    float [N, H, D]
    """
    batch = len(context_lens)
    if (np.diff(query_starts) == 1).all() and not batch_invariant:
        return paged_decode_attention(
            q, k_cache, v_cache, block_tables, context_lens, scale, window
        )
    out = np.empty_like(q)
    for b in range(batch):
        rows = slice(query_starts[b], query_starts[b + 1])
        k = gather_kv(k_cache, block_tables[b : b + 1], context_lens[b])[0]
        v = gather_kv(v_cache, block_tables[b : b + 1], context_lens[b])[0]
        if not batch_invariant:
            out[rows] = causal_attention(q[rows], k, v, scale, window)
            continue
        for row in range(rows.start, rows.stop):
            alone, seen = slice(row, row + 1), len(k) - (rows.stop - row - 1)
            out[alone] = causal_attention(q[alone], k[:seen], v[:seen], scale, window)
    return out
