"""How the kernels of RoPE are launched: which of them, and what each thread and block has."""

import math
from typing import Any, NamedTuple

import numpy as np

from llm_numba.kernels import ptx
from llm_numba.kernels.rope_heads import norm_heads, rope_naive, rope_write_heads, write_heads
from llm_numba.kernels.rope_packets import rope_write_vectorised, vectorised
from llm_numba.runtime import Launch, empty, storage_dtype

_THREADS = 256
# Measured: the smaller the block, the sooner its registers serve another.
_FUSED_THREADS = 128
_WARP = 32
_WARPS = 4
_MAX_Z = 64


class Config(NamedTuple):
    """How a kernel of packets is cut.

    Attributes
    ----------
    threads : int
        The most threads of a block.
    held : int
        Heads of which a thread holds a pair of packets.
    """

    threads: int
    held: int


CANDIDATES = tuple(Config(threads, held) for threads in (128, 256, 512) for held in (1, 2, 4))


def rule(shape: tuple[int, ...], dtype: str) -> Config:
    """Choose a configuration.

    Parameters
    ----------
    shape : tuple of int
        Tokens, heads, components.
    dtype : str

    Returns
    -------
    Config
        Few numbers are spread over as many threads as there can be; of many, a thread takes two
        heads for one reading of the angles.
    """
    return Config(256, 1) if math.prod(shape) < 1 << 20 else Config(512, 2)


def plan_naive(x: Any, positions: Any, cos: Any, sin: Any, out: Any) -> tuple[Launch, ...]:
    """Plan RoPE with a component a thread.

    Parameters
    ----------
    x, positions, cos, sin, out : arrays
        As of :func:`llm_numba.kernels.rope.rope`.

    Returns
    -------
    tuple of Launch
    """
    args = (x, positions, cos, sin, out)
    return (Launch(rope_naive, (math.ceil(x.size / _THREADS),), (_THREADS,), args),)


def plan_vectorised(
    x: Any, positions: Any, cos: Any, sin: Any, out: Any, config: Config | None = None
) -> tuple[Launch, ...]:
    """Plan RoPE by packets of 16 bytes, or :func:`plan_naive` where there are none.

    Parameters
    ----------
    x, positions, cos, sin, out : arrays
        As of :func:`llm_numba.kernels.rope.rope`.
    config : Config, optional
        By default :func:`rule`'s.

    Returns
    -------
    tuple of Launch
    """
    if not _is_made_of_pairs(cos, x, out, cos, sin):
        return plan_naive(x, positions, cos, sin, out)
    config = config or rule(x.shape, storage_dtype(x))
    pairs = x.shape[2] // 2 // ptx.VECTOR[storage_dtype(x)]
    grid, block = _cut(x.shape[0], math.ceil(x.shape[1] / config.held), pairs, config.threads)
    return (Launch(vectorised(config.held), grid, block, (x, positions, cos, sin, out)),)


def _is_made_of_pairs(cos: Any, x: Any, *others: Any) -> bool:
    """Whether both parts of a head are pairs of packets, in arrays that begin on packets."""
    width, length, turning = ptx.VECTOR[storage_dtype(x)], x.shape[2], 2 * cos.shape[1]
    whole = turning % (2 * width) == 0 and length % (2 * width) == 0
    fits = length // (2 * width) <= _WARP
    return whole and fits and all(map(ptx.is_aligned16, (x, *others)))


def _cut(
    tokens: int, heads: int, lanes: int, threads: int, whole: int = 1
) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Return grid and block: pairs along x, heads along y, tokens along z.

    Heads are spread evenly over as few blocks as hold them, in multiples of `whole`.
    """
    blocks = math.ceil(heads * lanes / threads)
    side_by_side = whole * math.ceil(heads / (blocks * whole))
    together = min(_MAX_Z, max(1, threads // (lanes * side_by_side)))
    grid = (math.ceil(tokens / together), math.ceil(heads / side_by_side))
    return grid, (lanes, side_by_side, together)


def plan_apart(
    qkv: Any,
    positions: Any,
    cos: Any,
    sin: Any,
    k_cache: Any,
    v_cache: Any,
    slot_mapping: Any,
    q_norm: Any,
    k_norm: Any,
    eps: float,
    out: Any,
) -> tuple[Launch, ...]:
    """Plan norms, rotations and the KV write one after another, each through memory.

    Parameters
    ----------
    qkv, positions, cos, sin, k_cache, v_cache, slot_mapping, q_norm, k_norm, eps, out
        As of :func:`llm_numba.kernels.rope.rope_and_write_kv`, and none missing: tables without
        columns are no rotation, weights without elements no norm.

    Returns
    -------
    tuple of Launch
    """
    heads, groups, length = out.shape[1], *k_cache.shape[2:]
    qkv = qkv.reshape(len(qkv), heads + 2 * groups, length)
    q, k, v = qkv[:, :heads], qkv[:, heads : heads + groups], qkv[:, heads + groups :]
    turned_k = empty(k.shape, k.dtype, like=k)
    launches = []
    for x, weight, turned in ((q, q_norm, out), (k, k_norm, turned_k)):
        normed = x
        if weight.size > 0:
            normed = empty(x.shape, x.dtype, like=x)
            launches += _by_heads(norm_heads, x, (x, weight, np.float32(eps), normed))
        launches += plan_naive(normed, positions, cos, sin, turned)
    args = (turned_k, v, k_cache, v_cache, slot_mapping)
    launches.append(Launch(write_heads, (math.ceil(k.size / _THREADS),), (_THREADS,), args))
    return tuple(launches)


def plan_fused(**operands: Any) -> tuple[Launch, ...]:
    """Plan one pass, with a warp for each head.

    Parameters
    ----------
    **operands
        Of :func:`plan_apart`.

    Returns
    -------
    tuple of Launch
    """
    args = _fused_args(**operands)
    return _by_heads(rope_write_heads, args[0], args)


def plan_fused_vectorised(threads: int = _FUSED_THREADS, **operands: Any) -> tuple[Launch, ...]:
    """Plan one pass by packets of 16 bytes, or :func:`plan_fused` where there are none.

    Parameters
    ----------
    threads : {128, 256, 512}
        Of a block.
    **operands
        Of :func:`plan_apart`.

    Returns
    -------
    tuple of Launch
    """
    args = _fused_args(**operands)
    heads, _, cos, sin, q_norm, k_norm, *_, q, k_rows, v_rows = args
    if not _is_made_of_pairs(cos, heads, cos, sin, q_norm, k_norm, q, k_rows, v_rows):
        return plan_fused(**operands)
    pairs = heads.shape[2] // 2 // ptx.VECTOR[storage_dtype(heads)]
    # Neighbours that add up a head by halves are a power of two.
    lanes = 1 << (pairs - 1).bit_length()
    # Whole warps, so that no shuffle asks for a thread that is not there.
    grid, block = _cut(*heads.shape[:2], lanes, threads, _WARP // lanes)
    return (Launch(rope_write_vectorised, grid, block, args),)


def _fused_args(
    qkv: Any,
    positions: Any,
    cos: Any,
    sin: Any,
    k_cache: Any,
    v_cache: Any,
    slot_mapping: Any,
    q_norm: Any,
    k_norm: Any,
    eps: float,
    out: Any,
) -> tuple[Any, ...]:
    heads, length = out.shape[1:]
    qkv = qkv.reshape(len(qkv), -1, length)
    rows = [each.reshape(-1, length) for each in (out, k_cache, v_cache)]
    eps = np.float32(eps)
    return qkv, positions, cos, sin, q_norm, k_norm, eps, slot_mapping, np.int32(heads), *rows


def _by_heads(kernel: Any, x: Any, args: tuple[Any, ...]) -> tuple[Launch, ...]:
    """Give each head of x to a warp."""
    grid = (math.ceil(x.shape[0] * x.shape[1] / _WARPS),)
    return (Launch(kernel, grid, (_WARP, _WARPS), args),)
