"""How the steps of the decoding ladder are launched: configs, rules, grids.

Everything here follows from shapes. The lengths of the contexts lie on the device.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_numba.kernels import ptx
from llm_numba.kernels.paged_decode_grouped import decode_grouped
from llm_numba.kernels.paged_decode_joined import (
    MOST_PIECES,
    can_join,
    decode_joined,
    joined_bytes,
)
from llm_numba.kernels.paged_decode_lanes import Layout
from llm_numba.kernels.paged_decode_online import decode_naive, decode_online
from llm_numba.kernels.paged_decode_packets import decode_staged, decode_vectorised, ring_bytes
from llm_numba.kernels.paged_decode_parts import THREADS, WARP
from llm_numba.kernels.paged_decode_split import MERGE_THREADS, decode_split, merge_pieces
from llm_numba.kernels.paged_decode_turning import can_turn, decode_turning
from llm_numba.runtime import Launch, empty, storage_dtype

_LOG2_E = math.log2(math.e)
_NO_WINDOW = 2**31 - 1
# Of an H100, whatever the GPU: what depends on shapes alone gives the same bits everywhere.
_BLOCKS_AT_ONCE = 2 * 132
_BEGIN_POSITIONS, _MERGE_POSITIONS = 96, 8
_SHORTEST_PIECE, _LONGEST_PIECE = 64, 4096
_FIXED_PIECE = 512
# Where the step ``joined`` was measured to win: context, and bytes of all keys together.
_SHORT_CONTEXT, _SHORT_BYTES = 2048, 1 << 24
_JOINED_WARPS, _JOINED_PIECE = 8, 128


class Config(NamedTuple):
    """How the last step is launched.

    Attributes
    ----------
    loads : int
        Positions of a tile that a lane takes: 1, 2, 4 or 8.
    warps : int
        Of a block.
    stages : int
        Tiles in the ring of a warp, 2 or more.
    piece : int
        Positions of a context that a block takes.
    """

    loads: int
    warps: int
    stages: int
    piece: int


def rule(shape: tuple[int, ...], dtype: str) -> Config:
    """Choose a config from shapes alone.

    Two blocks an SM keep memory busy. What exceeds that on all SMs is a second wave, which takes
    as long as the first however few its blocks are. So the piece is what makes waves times length
    least; to begin a block, and to merge a piece, costs as much as some positions.

    Parameters
    ----------
    shape : tuple of int
        D, G, R = H / G, B and T = W * block_size: the ladder's axes.
    dtype : str
        Storage format.

    Returns
    -------
    Config
    """
    *_, length = shape
    blocks = blocks_of(shape)

    def cost(piece: int) -> tuple[int, int]:
        pieces = math.ceil(length / piece)
        waves = math.ceil(blocks * pieces / _BLOCKS_AT_ONCE)
        return waves * (piece + _BEGIN_POSITIONS) + pieces * _MERGE_POSITIONS, -piece

    choices = range(_SHORTEST_PIECE, _LONGEST_PIECE + 1, _SHORTEST_PIECE)
    return fixed_rule(shape, dtype)._replace(piece=min(choices, key=cost))


def fixed_rule(shape: tuple[int, ...], dtype: str) -> Config:
    """Choose a config from the model's shapes alone, whatever the batch and its contexts.

    Parameters
    ----------
    shape : tuple of int
        As of :func:`rule`; B and T do not matter.
    dtype : str

    Returns
    -------
    Config
    """
    heads, bytes_of_key = heads_of_block(shape), shape[0] * np.dtype(dtype).itemsize
    # Registers and shared memory for 2 blocks on any SM that has 100 KiB of it.
    loads = 4 if heads <= 4 and bytes_of_key <= WARP * 16 else 2
    return Config(loads, warps=4, stages=3, piece=_FIXED_PIECE)


def candidates(shape: tuple[int, ...], dtype: str) -> tuple[Config, ...]:
    """Return configs worth measuring, the rule's first.

    Parameters
    ----------
    shape : tuple of int
    dtype : str
    """
    chosen = rule(shape, dtype)
    pieces = [chosen._replace(piece=piece) for piece in (128, 256, 512, 1024, 2048, 4096)]
    rings = [
        chosen._replace(loads=loads, stages=stages) for loads, stages in ((2, 2), (2, 4), (4, 2))
    ]
    return tuple(dict.fromkeys((chosen, *pieces, *rings)))


def heads_of_block(shape: tuple[int, ...]) -> int:
    """Return how many query heads share what a block reads: a power of two, up to 8.

    Parameters
    ----------
    shape : tuple of int
        As of :func:`rule`.
    """
    group = shape[2]
    return min(8, 1 << (group - 1).bit_length())


def plan_naive(**operands: Any) -> tuple[Launch, ...]:
    """Plan the step ``naive``: a block a query head, scores in a workspace."""
    _, num_kv_heads, group, batch, length = shape_of(**operands)
    *inputs, out = _args(**operands)
    blocks = batch * num_kv_heads * group
    scores = empty((blocks, length), np.float32, like=out)
    return (Launch(decode_naive, (blocks,), (THREADS,), (*inputs, scores, out)),)


def plan_online(**operands: Any) -> tuple[Launch, ...]:
    """Plan the step ``online``: a block a query head."""
    _, num_kv_heads, group, batch, _ = shape_of(**operands)
    blocks = batch * num_kv_heads * group
    return (Launch(decode_online, (blocks,), (THREADS,), _args(**operands)),)


def plan_grouped(**operands: Any) -> tuple[Launch, ...]:
    """Plan the step ``grouped``: a block a KV head, or as many as its query heads need."""
    shape = shape_of(**operands)
    heads, slices = heads_of_block(shape), math.ceil(shape[0] / WARP)
    kernel = decode_grouped(heads, slices)
    return (Launch(kernel, (blocks_of(shape),), (THREADS,), _args(**operands)),)


def plan_vectorised(**operands: Any) -> tuple[Launch, ...]:
    """Plan the step ``vectorised``: as ``grouped``, which takes what is not made of packets."""
    shape = shape_of(**operands)
    if not _in_packets(**operands):
        return plan_grouped(**operands)
    layout = _layout(fixed_rule(shape, storage_dtype(operands["q"])), **operands)
    kernel = decode_vectorised(layout)
    return (Launch(kernel, (blocks_of(shape),), (WARP * layout.warps,), _args(**operands)),)


def plan_staged(**operands: Any) -> tuple[Launch, ...]:
    """Plan the step ``staged``: as ``vectorised``, with the ring in dynamic shared memory."""
    shape = shape_of(**operands)
    if not _in_packets(**operands):
        return plan_grouped(**operands)
    return _staged(fixed_rule(shape, storage_dtype(operands["q"])), **operands)


def _staged(config: Config, **operands: Any) -> tuple[Launch, ...]:
    layout = _layout(config, **operands)
    kernel, shared = decode_staged(layout, config.stages), ring_bytes(layout, config.stages)
    block = (WARP * layout.warps,)
    return (Launch(kernel, (blocks_of(shape_of(**operands)),), block, _args(**operands), shared),)


def plan_split(config: Config, **operands: Any) -> tuple[Launch, ...]:
    """Plan the step ``split``: pieces and their merging; ``staged`` where there is one piece."""
    shape = shape_of(**operands)
    if not _in_packets(**operands):
        return plan_grouped(**operands)
    head_dim, num_kv_heads, group, batch, length = shape
    if length <= config.piece:
        return _staged(config, **operands)
    layout = _layout(config, **operands)
    *inputs, out = _args(**operands)
    pieces, results = math.ceil(length / config.piece), batch * num_kv_heads * group
    maxima, sums = (empty(results * pieces, np.float32, like=out) for _ in range(2))
    mixed = empty(results * pieces * head_dim, np.float32, like=out)
    piece, window = np.int32(config.piece), inputs[-1]
    return (
        Launch(
            decode_split(layout, config.stages),
            (blocks_of(shape), pieces),
            (WARP * layout.warps,),
            (*inputs, piece, maxima, sums, mixed),
            ring_bytes(layout, config.stages),
        ),
        Launch(
            merge_pieces,
            (results,),
            (MERGE_THREADS,),
            (maxima, sums, mixed, inputs[4], window, piece, np.int32(pieces), out),
        ),
    )


def plan_joined(**operands: Any) -> tuple[Launch, ...] | None:
    """Plan the step ``joined``; None where it has no kernel, or contexts are not short.

    Parameters
    ----------
    **operands
        ``arrived`` among them, which may be None: then nothing can be joined.
    """
    layout, *inputs = _layout_of_short(**operands), *_args(**operands)[:-1]
    if layout is None:
        return None
    kernel = decode_joined(layout, shape_of(**operands)[2])
    return (_launch_of_short(kernel, layout, inputs, **operands),)


def plan_turning(
    qkv: Any, cos: Any, sin: Any, out: Any, positions: Any, slot_mapping: Any, **operands: Any
) -> tuple[Launch, ...] | None:
    """Plan the step ``turning`` of another ladder; None where it has no kernel.

    Parameters
    ----------
    qkv, cos, sin, out, positions, slot_mapping, **operands
        As of :func:`llm_numba.kernels.rope_attention.rope_and_decode_attention`.
    """
    batch, _, head_dim = out.shape
    operands |= {"q": out, "out": out}
    layout = _layout_of_short(**operands)
    if layout is None or not can_turn(layout, 2 * cos.shape[1]):
        return None
    if not all(map(ptx.is_aligned16, (qkv, cos, sin))):
        return None
    _, *inputs, _ = _args(**operands)
    heads = qkv.reshape(batch, -1, head_dim)
    kernel = decode_turning(layout, shape_of(**operands)[2])
    return (_launch_of_short(kernel, layout, (heads, cos, sin, *inputs), **operands),)


def is_short(length: int, key_bytes: int) -> bool:
    """Tell whether joining its pieces was measured to pay for contexts.

    Parameters
    ----------
    length : int
        Positions of the longest.
    key_bytes : int
        Of the keys of all sequences together.
    """
    return length <= _SHORT_CONTEXT and key_bytes <= _SHORT_BYTES


def _layout_of_short(arrived: Any, **operands: Any) -> Layout | None:
    """Return who takes what of a short context; None where it cannot be joined."""
    shape, dtype = shape_of(**operands), storage_dtype(operands["q"])
    head_dim, num_kv_heads, _, batch, length = shape
    layout = _layout(fixed_rule(shape, dtype)._replace(warps=_JOINED_WARPS), **operands)
    key_bytes = math.prod((head_dim, num_kv_heads, batch, length)) * np.dtype(dtype).itemsize
    joins = arrived is not None and is_short(length, key_bytes) and _in_packets(**operands)
    joins = joins and can_join(layout)
    return layout if joins else None


def _launch_of_short(
    kernel: Any, layout: Layout, inputs: Sequence[Any], arrived: Any, out: Any, **operands: Any
) -> Launch:
    """Give each piece, share of a KV head, and sequence a block, and room for what it leaves."""
    shape = shape_of(**operands)
    batch, length, blocks, piece = *shape[3:], blocks_of(shape), joined_piece(shape)
    pieces = math.ceil(length / piece)
    parts = blocks * pieces * layout.heads
    maxima, sums = (empty(parts, np.float32, like=out) for _ in range(2))
    mixed = empty(parts * layout.head_dim, np.float32, like=out)
    args = (*inputs, np.int32(piece), arrived, maxima, sums, mixed, out)
    grid, block = (pieces, blocks // batch, batch), (WARP * layout.warps,)
    return Launch(kernel, grid, block, args, joined_bytes(layout))


def joined_piece(shape: tuple[int, ...]) -> int:
    """Choose how long a piece is: a tile for each warp, or more where that is too many blocks.

    Parameters
    ----------
    shape : tuple of int
        As of :func:`rule`.

    Returns
    -------
    int
        Positions; a context has 16 pieces at most, and all blocks are there at once.
    """
    *_, length = shape
    piece = _JOINED_PIECE
    while piece < length and (
        length > MOST_PIECES * piece
        or blocks_of(shape) * math.ceil(length / piece) > _BLOCKS_AT_ONCE
    ):
        piece *= 2
    return piece


def shape_of(q: Any, k_cache: Any, block_tables: Any, **_: Any) -> tuple[int, ...]:
    """Return D, G, R, B, and as T the longest context that the tables have room for."""
    batch, num_heads, head_dim = q.shape
    _, block_size, num_kv_heads, _ = k_cache.shape
    length = block_tables.shape[1] * block_size
    return head_dim, num_kv_heads, num_heads // num_kv_heads, batch, length


def _args(
    q: Any, k_cache: Any, v_cache: Any, block_tables: Any, context_lens: Any,
    scale: float, window: int | None, out: Any, arrived: Any = None,
) -> tuple[Any, ...]:  # fmt: skip
    seen = np.int32(_NO_WINDOW if window is None else window)
    factor = np.float32(scale * _LOG2_E)
    return q, k_cache, v_cache, block_tables, context_lens, factor, seen, out


def blocks_of(shape: tuple[int, ...]) -> int:
    """Return the blocks of a grid, or of a piece of all contexts."""
    _, num_kv_heads, group, batch, _ = shape
    return batch * num_kv_heads * math.ceil(group / heads_of_block(shape))


def _in_packets(q: Any, k_cache: Any, v_cache: Any, **_: Any) -> bool:
    """Whether each key, value and query is made of packets on 16-byte boundaries."""
    whole = q.shape[2] % ptx.VECTOR[storage_dtype(q)] == 0
    return whole and all(map(ptx.is_aligned16, (q, k_cache, v_cache)))


def _layout(config: Config, **operands: Any) -> Layout:
    shape, width = shape_of(**operands), ptx.VECTOR[storage_dtype(operands["q"])]
    block_size = operands["k_cache"].shape[1]
    heads = heads_of_block(shape)
    return Layout(shape[0], block_size, width, heads, config.loads, config.warps)
