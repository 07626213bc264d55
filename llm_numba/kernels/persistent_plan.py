"""The launch of the persistent kernel, and the memory that its blocks hand work through."""

from typing import Any, NamedTuple

import numpy as np

from llm_numba.kernels.persistent import persistent_kernel
from llm_numba.kernels.persistent_shape import WARP, Shape
from llm_numba.kernels.persistent_stream import FLAG_STRIDE
from llm_numba.runtime import Launch, zeros


class Workspace(NamedTuple):
    """What blocks write for each other.

    Attributes
    ----------
    flags : int32 [flags * FLAG_STRIDE]
        Counters that blocks meet at; they only grow.
    done : int32 [G]
        Pieces of a KV head that are there.
    epoch : int32 [1]
        Steps so far.
    r, middle : [E]
        The residual stream, before and behind attention.
    qkv : [(H + 2G) D]
    attended : [H D]
    inner : [F]
    piece_maxima, piece_sums : float32 [H * pieces]
    piece_mixed : float32 [H * pieces * D]
    best : int64 [blocks]
    """

    flags: Any
    done: Any
    epoch: Any
    r: Any
    middle: Any
    qkv: Any
    attended: Any
    inner: Any
    piece_maxima: Any
    piece_sums: Any
    piece_mixed: Any
    best: Any


def workspace(shape: Shape, dtype: Any, device: str) -> Workspace:
    """Allocate it, with counters of zero.

    Parameters
    ----------
    shape : Shape
    dtype : dtype-like
        Of the weights.
    device : str
    """
    partials = shape.heads * shape.pieces
    qkv, out, gate_up, _ = shape.matrices
    lengths = (shape.hidden, shape.hidden, qkv.rows, out.columns, gate_up.rows)
    return Workspace(
        *(zeros(n, np.int32, device) for n in (shape.flags * FLAG_STRIDE, shape.kv_heads, 1)),
        *(zeros(n, dtype, device) for n in lengths),
        *(zeros(n, np.float32, device) for n in (partials, partials, partials * shape.head_dim)),
        zeros(shape.blocks, np.int64, device),
    )


class Weights(NamedTuple):
    """What a model is made of.

    Attributes
    ----------
    arena : [arena size]
        The LM head, then each layer's matrices.
    embedding : [V, E]
    norms : [2L + 1, E]
        Of each layer before attention and before the MLP; the final one.
    cos, sin : float32 [positions, D / 2]
    """

    arena: Any
    embedding: Any
    norms: Any
    cos: Any
    sin: Any


def plan(
    shape: Shape,
    weights: Weights,
    caches: tuple[Any, Any],
    block_table: Any,
    token: Any,
    position: Any,
    slot: Any,
    eps: float,
    scale: float,
    space: Workspace,
    logits: Any,
    out: Any,
) -> Launch:
    """Plan a decoding step of one sequence.

    Parameters
    ----------
    shape : Shape
    weights : Weights
    caches : pair of [L * num_blocks, block_size, G, D]
        Keys and values, a layer behind the other.
    block_table : int32 [1, W]
        Of blocks of a layer.
    token, position, slot : int32 [1]
        The new token, where it stands, and where its keys and values go in a layer's cache.
    eps, scale : float
        Of norms and of scores. Scores are powers of two, so the scale includes log2(e).
    space : Workspace
    logits : float32 [V]
    out : int64 [1]
        The most likely token, the first of equals; -1 if the largest logit is not a finite number,
        or any is NaN.

    Returns
    -------
    Launch
        All its blocks begin together, or an error says that they do not fit.
    """
    args = (
        *weights, *caches, block_table, token, position, slot,
        np.float32(eps), np.float32(scale), *space, logits, out,
    )  # fmt: skip
    block = (shape.warps * WARP,)
    return Launch(persistent_kernel(shape), (shape.blocks,), block, args, shape.ring_bytes)
