r"""The step ``turning``: attention of a decoding step, with RoPE and the KV write inside.

Between the product that makes q, k, v and the attention of a decoding step lies little: to turn a
few heads, and to keep one key and one value a KV head. As a launch of its own that costs more than
it computes. Here each block of :mod:`~llm_numba.kernels.paged_decode_joined` does what it needs:

::

    old positions    K, V of the cache -> registers -.
    newest position  k of qkv -> turned -------------+-> scores, weights, mix -> merge -> out
                     v of qkv -----------------------'
    queries          q of qkv -> turned, scaled -> registers

All blocks of a KV head turn its queries anew: that is a few instructions, and to share them would
be a meeting. The newest key concerns the last piece alone, whose block writes it to the cache, too.
Nobody reads it from there in this step: a block that loads from the cache stops before it.

A lane has packet c of a position, and half the packets on is what it turns with:

::

    packet          0    1    2    3    4    5    6    7        of a head of 8
    turned with     4    5    6    7    0    1    2    3        y = x cos -+ x' sin

So a lane loads both packets, and keeps one. Angles are the same for all heads.
"""

import functools

from numba import cuda, float32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.paged_decode_joined import (
    can_join,
    finish_function,
    packet,
    piece_function,
    tile_functions,
)
from llm_numba.kernels.paged_decode_lanes import lane_functions
from llm_numba.kernels.paged_decode_parts import WARP, row_of
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.runtime import starts_early


def can_turn(layout, turning):
    """Tell whether there is a kernel for a layout, and heads of which so many components turn.

    Parameters
    ----------
    layout : Layout
    turning : int
        d, of RoPE: all of a head must turn, or lanes of the rest would need other partners.
    """
    return can_join(layout) and turning == layout.head_dim


@functools.cache
def turning_functions(layout, group):
    """Make the device functions that turn heads in registers.

    Parameters
    ----------
    layout : Layout
    group : int
        Query heads of a KV head.

    Returns
    -------
    load_angles
        ``(cos, sin, position, column, c, s)``: the lane's cosines and sines; these have the sign
        that they have in its half of a head.
    turn_queries
        ``(qkv, scale, place, column, c, s, turned, query)``: those of the block, scaled; zeros for
        absent heads.
    take_newest
        ``(qkv, k_cache, v_cache, block_tables, place, newest, tile, row, column, c, s, turned, k,
        v)``: put the newest key and value into the lanes whose position of the tile is the newest,
        and into the cache.
    """
    head_dim, block_size, width, heads, loads, _ = layout
    rows, half = layout.rows, layout.packets // 2

    @cuda.jit(device=True)
    def load_angles(cos, sin, position, column, c, s):
        """Load four angles at a time; the first half of a head subtracts."""
        begin = position * (head_dim // 2) + column % half * width
        for quarter in range(width // 4):
            cosines = ptx.load16(cos, begin + 4 * quarter)
            sines = ptx.load16(sin, begin + 4 * quarter)
            for e in range(4):
                c[4 * quarter + e] = cosines[e]
                s[4 * quarter + e] = -sines[e] if column < half else sines[e]

    @cuda.jit(device=True)
    def turn(qkv, head, column, c, s, turned):
        """Turn the lane's packet, by that half a head away."""
        own = ptx.load16(qkv, head * head_dim + column * width)
        other = ptx.load16(qkv, head * head_dim + (column ^ half) * width)
        for e in range(width):
            turned[e] = own[e] * c[e] + other[e] * s[e]

    @cuda.jit(device=True)
    def turn_queries(qkv, scale, place, column, c, s, turned, query):
        """Turn the group's queries into registers."""
        sequence, _, first_head, here = place
        for h in range(heads):
            for e in range(width):
                query[h * width + e] = float32(0)
            if h < here:
                turn(qkv, sequence * qkv.shape[1] + first_head + h, column, c, s, turned)
                for e in range(width):
                    query[h * width + e] = turned[e] * scale

    @cuda.jit(device=True)
    def take_newest(
        qkv, k_cache, v_cache, block_tables, place, newest, tile, row, column, c, s, turned, k, v
    ):
        """Turn the key, and round it as the cache has it; the value is as it is."""
        sequence, kv_head, first_head, _ = place
        groups = k_cache.shape[2]
        of_key = (sequence + 1) * qkv.shape[1] - 2 * groups + kv_head
        turn(qkv, of_key, column, c, s, turned)
        values = ptx.zeros16(k_cache)
        for e in range(width):
            values = ptx.with_item(values, e, turned[e])
        key = ptx.round_raw16(k_cache, values)
        value = ptx.load_raw16(qkv, (of_key + groups) * head_dim + column * width)
        for j in range(loads):
            if tile + j * rows + row == newest:
                for i in range(4):
                    k[4 * j + i], v[4 * j + i] = key[i], value[i]
        # Of the blocks that share a KV head's queries, the first one keeps them.
        if row == 0 and first_head == kv_head * group:
            slot = row_of(block_tables, block_size, sequence, newest)
            to = (slot * groups + kv_head) * head_dim + column * width
            ptx.store_raw16(k_cache, to, key)
            ptx.store_raw16(v_cache, to, value)

    return load_angles, turn_queries, take_newest


@functools.cache
def decode_turning(layout, group):
    """Make the kernel of the step ``turning``.

    Parameters
    ----------
    layout : Layout
    group : int
        Query heads of a KV head: known here, they cost no division.
    """
    _, block_size, width, heads, loads, warps = layout
    lanes, tile_size, sums_of_lane = layout.lanes, layout.tile, heads * loads
    held, words, threads = heads * width, 4 * loads, WARP * warps
    step = warps * tile_size
    do = lane_functions(layout)
    score, weigh, mix_in = do.score, do.weigh, do.mix_in
    find, finish = piece_function(heads, group), finish_function(layout)
    load, _ = tile_functions(layout)
    load_angles, turn_queries, take_newest = turning_functions(layout, group)

    @starts_early
    @cuda.jit(launch_bounds=threads)
    def turning(
        qkv, cos, sin, k_cache, v_cache, block_tables, context_lens, scale, window, piece, arrived,
        piece_maxima, piece_sums, piece_mixed, out,
    ):  # fmt: skip
        """Take one piece of a context as ``joined`` does; its last position comes from qkv.

        What lies in the cache, and where, was written in steps before this one: so it is loaded
        before the wait for the product that makes qkv.
        """
        query, mix = cuda.local.array(held, float32), cuda.local.array(held, float32)
        scores, c = cuda.local.array(sums_of_lane, float32), cuda.local.array(width, float32)
        s, turned = cuda.local.array(width, float32), cuda.local.array(width, float32)
        k, v = cuda.local.array(words, uint32), cuda.local.array(words, uint32)
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        row, column = lane // lanes, lane % lanes
        place, pieces, (begin, end, context) = find(context_lens, window, piece)
        sequence, kv_head = place[:2]
        # A context of no position has no piece; then the first block writes zeros.
        if begin >= end and (pieces[1] > 0 or cuda.blockIdx.x > 0):
            ptx.await_previous_kernel()
            return
        newest, first_tile = context - 1, (begin // tile_size + warp) * tile_size
        old = min(end, newest)
        for i in range(words):
            k[i], v[i] = uint32(0), uint32(0)
        if max(first_tile, begin) < old:
            block = block_tables[sequence, uint32(first_tile) // uint32(block_size)]
            load(k_cache, v_cache, block, kv_head, first_tile, row, column, begin, old, k, v)
        load_angles(cos, sin, max(newest, 0), column, c, s)
        ptx.release_next_kernel()
        ptx.await_previous_kernel()
        turn_queries(qkv, scale, place, column, c, s, turned, query)
        for i in range(held):
            mix[i] = float32(0)
        maximum, total = MINUS_INFINITY, float32(0)
        for tile in range(first_tile, end, step):
            if tile > first_tile and tile < old:
                block = block_tables[sequence, uint32(tile) // uint32(block_size)]
                load(k_cache, v_cache, block, kv_head, tile, row, column, begin, old, k, v)
            if tile <= newest and newest < tile + tile_size:
                take_newest(
                    qkv, k_cache, v_cache, block_tables, place, newest, tile, row, column,
                    c, s, turned, k, v,
                )  # fmt: skip
            for i in range(sums_of_lane):
                scores[i] = float32(0)
            for j in range(loads):
                score(ptx.widen_raw16(k_cache, packet(k, j)), query, scores, j, 0)
            maximum, total = weigh(scores, tile, row, column, begin, end, maximum, total, mix)
            for j in range(loads):
                mix_in(ptx.widen_raw16(v_cache, packet(v, j)), scores, mix, row, j, 0)
        workspace = piece_maxima, piece_sums, piece_mixed
        finish(place, pieces, row, column, maximum, total, mix, arrived, workspace, out)

    return turning
