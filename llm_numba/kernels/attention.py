r"""Causal attention with grouped KV heads, over contiguous or paged keys and values.

.. math:: O = \mathrm{softmax}\left(\frac{Q K^T}{\sqrt D} + \text{mask}\right) V
"""

import math
from typing import Any

import numpy as np

from llm_numba.kernels import checks, ptx
from llm_numba.kernels.attention_places import most_tiles
from llm_numba.kernels.attention_register_tile import (
    THREADS,
    Config,
    config_for,
    register_tile_kernel,
    shared_bytes,
)
from llm_numba.runtime import Launch, empty_like, launch_all, storage_dtype

MAX_HEAD_DIM = 256
_LOG2_E = math.log2(math.e)
_NO_WINDOW = 2**30


def paged_attention(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    block_tables: Any,
    query_starts: Any,
    context_lens: Any,
    scale: float,
    window: int | None = None,
    *,
    out: Any = None,
    config: Config | None = None,
    stream: Any = None,
) -> Any:
    """Attend from the new tokens of each sequence, however many, to its own paged context.

    Nothing is read on the host: the grid follows from shapes, and a CUDA graph may hold the launch.

    Parameters
    ----------
    q : float32, float16 or bfloat16 [N, H, D]
        The new tokens of all sequences, one sequence after the other. D is 1 to 256; multiples of
        8 are loaded 16 bytes at a time, and others by the element.
    k_cache, v_cache : of the dtype of q [num_blocks, block_size, G, D]
        G divides H. What no query sees may be anything, NaN as well.
    block_tables : int32 [B, W]
        Rows shorter than W are padded with anything.
    query_starts : int32 [B + 1]
        Sequence b owns rows ``query_starts[b]`` to ``query_starts[b + 1]`` of q.
    context_lens : int32 [B]
        Keys of each sequence, its new tokens included.
    scale : float
        Usually 1/sqrt(D).
    window : int, optional
        How many positions a query sees, itself included; at least 1.
    out : of shape and dtype of q, optional
        Rows that belong to no sequence are left as they are.
    config : Config, optional
        Tiles; by default those of
        :func:`~llm_numba.kernels.attention_register_tile.config_for`.
    stream : optional
        By default the current one.

    Returns
    -------
    of shape and dtype of q
        `out`, or a new array.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("q", q, ndim=3)
    N, H, D = q.shape
    checks.integer("D, the last axis of q,", D, at_least=1, at_most=MAX_HEAD_DIM)
    same = {"dtype": storage_dtype(q), "like": q}
    checks.array("k_cache", k_cache, shape=(None, None, None, D), **same)
    checks.array("v_cache", v_cache, shape=k_cache.shape, **same)
    _, block_size, G, _ = k_cache.shape
    checks.integer("H, the second axis of q, modulo G", H % G if G else H, at_most=0)
    integers = {"dtype": "int32", "like": q}
    checks.array("context_lens", context_lens, ndim=1, **integers)
    B = len(context_lens)
    checks.array("query_starts", query_starts, shape=(B + 1,), **integers)
    checks.array("block_tables", block_tables, shape=(B, None), **integers)
    scale = checks.number("scale", scale, finite=True)
    window = _NO_WINDOW if window is None else checks.integer("window", window, at_least=1)
    if out is None:
        out = empty_like(q)
    checks.array("out", out, shape=q.shape, **same)
    if q.size == 0 or B == 0:
        return out
    config = config or config_for(D)
    packets = D % 8 == 0 and all(map(ptx.is_aligned16, (q, k_cache, v_cache)))
    args = (
        *(array.reshape(-1, D) for array in (q, k_cache, v_cache)),
        block_tables,
        query_starts,
        context_lens,
        np.int32(H // G),
        np.int32(block_size),
        np.float32(scale * _LOG2_E),
        np.int32(min(window, _NO_WINDOW)),
        out.reshape(-1, D),
    )
    kernel = register_tile_kernel(D, config, packets)
    grid = (most_tiles(N, B, H // G, config.rows), G)
    launch_all([Launch(kernel, grid, (THREADS,), args, shared_bytes(D, config))], stream)
    return out
