"""The attention of the persistent kernel: RoPE, the KV write, a piece of the context, the merge.

A block has a KV head and a piece of the context. It turns the queries of the group itself, as do
the other blocks of that head: that is less work than to wait for somebody who does it once. The
block whose piece ends with the new token turns and writes its key, too. The block that comes last
of a KV head merges the pieces.
"""

import functools

from numba import cuda, float32, int32, uint32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.paged_decode_lanes import Layout, lane_functions
from llm_numba.kernels.paged_decode_parts import merged
from llm_numba.kernels.persistent_shape import WARP
from llm_numba.kernels.persistent_stream import arrive
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one

# Positions of a piece, at least.
LEAST_PIECE = 32
# Positions that a block takes at a time, at most: each lane of a warp has some of them under way.
_AT_ONCE = 16
# Pieces that are loaded together to be merged.
_TOGETHER = 16


def layout_of(shape):
    """Return who takes what of a piece, so that its parts find room where the vector was."""
    heads = shape.heads // shape.kv_heads
    loads = max(1, _AT_ONCE // shape.warps)
    layout = Layout(shape.head_dim, shape.block_size, shape.width, heads, loads, 1)
    warps = min(shape.warps, shape.room // (layout.rows * heads * shape.head_dim))
    return layout._replace(warps=max(1, warps))


@cuda.jit(device=True)
def _turned(qkv, at, i, half, position, cos, sin):
    """Return a pair of a head's numbers, turned."""
    a, b = ptx.to_float(qkv[at + i]), ptx.to_float(qkv[at + i + half])
    c, s = cos[position, i], sin[position, i]
    return a * c - b * s, b * c + a * s


@functools.cache
def attention(shape, wait):
    """Make the device function for all threads of a block that attends to its piece.

    Parameters
    ----------
    shape : Shape
    wait : device function
        Of :func:`~llm_numba.kernels.persistent_stream.waiter`.
    """
    layout = layout_of(shape)
    _, block_size, width, heads, loads, warps = layout
    lanes, rows, turns, parts, tile_size = (
        layout.lanes, layout.rows, layout.turns, layout.parts, layout.tile
    )  # fmt: skip
    D, H, G, half = shape.head_dim, shape.heads, shape.kv_heads, shape.head_dim // 2
    threads, pieces, last = WARP * shape.warps, shape.pieces, layout.packets - 1
    held, sums_of_lane, words_held = heads * turns * width, heads * loads, 4 * loads * turns
    shape_layers = shape.layers
    statistics, together = parts * heads, min(pieces, _TOGETHER)
    do = lane_functions(layout)
    hold_queries, locate, score, weigh, mix_in, leave = do

    @cuda.jit(device=True)
    def prepare(qkv, cos, sin, group, position, slot, queries, fresh, k_cache, v_cache):
        """Turn the group's queries; and keep the new key and value, where there is a slot."""
        for i in range(cuda.threadIdx.x, (heads + 2) * half, threads):
            head, d = i // half, i % half
            if head < heads:
                a, b = _turned(qkv, (group * heads + head) * D, d, half, position, cos, sin)
                queries[0, head, d] = ptx.from_float(queries, a)
                queries[0, head, d + half] = ptx.from_float(queries, b)
            elif head == heads and slot >= 0:
                a, b = _turned(qkv, (H + group) * D, d, half, position, cos, sin)
                keep(a, fresh, 0, d, k_cache, slot, group)
                keep(b, fresh, 0, d + half, k_cache, slot, group)
            elif slot >= 0:
                at = (H + G + group) * D + d
                keep(ptx.to_float(qkv[at]), fresh, 1, d, v_cache, slot, group)
                keep(ptx.to_float(qkv[at + half]), fresh, 1, d + half, v_cache, slot, group)
        cuda.syncthreads()

    @cuda.jit(device=True)
    def keep(value, fresh, which, d, cache, slot, group):
        """Write a number of the new key or value, for this block and for later steps."""
        rounded = ptx.from_float(cache, value)
        fresh[which, d] = rounded
        cache[slot // block_size, slot % block_size, group, d] = rounded

    @cuda.jit(device=True)
    def load(k_cache, v_cache, table, base, group, tile, row, column, begin, end, k, v):
        """Load the lane's packets of a tile, all of them before the first is used."""
        starts = cuda.local.array(loads, uint64)
        locate(table, G, (0, group, 0, heads), tile, row, begin, end, starts)
        for j in range(loads):
            for turn in range(turns):
                at = base + starts[j] + min(column + turn * lanes, last) * width
                key, value = ptx.load_raw16(k_cache, at), ptx.load_raw16(v_cache, at)
                for i in range(4):
                    k[4 * (j * turns + turn) + i] = key[i]
                    v[4 * (j * turns + turn) + i] = value[i]

    @cuda.jit(device=True)
    def patch(fresh, tile, row, column, newest, k, v):
        """Take the new key and value, which were not there when the tile was loaded."""
        for j in range(loads):
            if tile + j * rows + row >= newest:
                for turn in range(turns):
                    at = min(column + turn * lanes, last) * width
                    key, value = ptx.load_raw16(fresh, at), ptx.load_raw16(fresh, D + at)
                    for i in range(4):
                        k[4 * (j * turns + turn) + i] = key[i]
                        v[4 * (j * turns + turn) + i] = value[i]

    @cuda.jit(device=True)
    def take(tile, row, column, begin, end, maximum, total, k_cache, k, v, query, mix):
        """Take a tile that was loaded; return the maximum so far, and the sum."""
        scores = cuda.local.array(sums_of_lane, float32)
        for i in range(sums_of_lane):
            scores[i] = float32(0)
        for j in range(loads):
            for turn in range(turns):
                n = 4 * (j * turns + turn)
                words = (k[n], k[n + 1], k[n + 2], k[n + 3])
                score(ptx.widen_raw16(k_cache, words), query, scores, j, turn)
        maximum, total = weigh(scores, tile, row, column, begin, end, maximum, total, mix)
        for j in range(loads):
            for turn in range(turns):
                n = 4 * (j * turns + turn)
                words = (v[n], v[n + 1], v[n + 2], v[n + 3])
                mix_in(ptx.widen_raw16(k_cache, words), scores, mix, row, j, turn)
        return maximum, total

    @cuda.jit(device=True)
    def comes_last(done, group, live, flag):
        """Tell whether all other pieces of the KV head are there; and count from zero again."""
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            cuda.threadfence()
            flag[0] = cuda.atomic.add(done, group, int32(1))
            if flag[0] == live - 1:
                done[group] = 0
            cuda.threadfence()
        cuda.syncthreads()
        return flag[0] == live - 1

    @cuda.jit(device=True)
    def merge_pieces(group, live, piece_maxima, piece_sums, piece_mixed, attended):
        """Merge what the pieces of a KV head come to; many loads are under way together."""
        highs, totals = cuda.local.array(together, float32), cuda.local.array(together, float32)
        mixes = cuda.local.array(together, float32)
        for i in range(cuda.threadIdx.x, heads * D, threads):
            h, d = i // D, i % D
            maximum, total, mix = MINUS_INFINITY, float32(0), float32(0)
            for begin in range(0, live, together):
                for n in range(together):
                    # One that is not there repeats the last, with weight 0.
                    part = (group * pieces + min(begin + n, live - 1)) * heads + h
                    highs[n], totals[n] = piece_maxima[part], piece_sums[part]
                    mixes[n] = piece_mixed[part * D + d]
                larger = maximum
                for n in range(together):
                    larger = max(larger, highs[n])
                factor = ptx.exp2(maximum - larger)
                total, mix = total * factor, mix * factor
                for n in range(together):
                    if begin + n < live:
                        factor = ptx.exp2(highs[n] - larger)
                        total += totals[n] * factor
                        mix += mixes[n] * factor
                maximum = larger
            value = mix * inverse_or_one(total)
            attended[(group * heads + h) * D + d] = ptx.from_float(attended, value)

    @cuda.jit(device=True)
    def attend_to_piece(
        meeting, stream, qkv, layer, piece_of, mixed, used, asked, attending,
        queries, fresh, maxima, sums,
    ):  # fmt: skip
        """Wait for q, k and v with the first keys and values at hand; leave the warps' parts."""
        cos, sin, k_cache, v_cache, table, position, slot, scale = attending[:8]
        group, begin, end = piece_of
        k, v = cuda.local.array(words_held, uint32), cuda.local.array(words_held, uint32)
        query, mix = cuda.local.array(held, float32), cuda.local.array(held, float32)
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        row, column = lane // lanes, lane % lanes
        blocks = k_cache.shape[0] // shape_layers
        base = uint64(layer) * uint64(blocks * block_size * G * D)
        first = (begin // tile_size + warp) * tile_size
        if warp >= warps:
            first = end
        if first < end:
            load(k_cache, v_cache, table, base, group, first, row, column, begin, end, k, v)
        asked = wait(meeting, stream, used, asked)
        place = -1
        if end == position + 1 and slot >= 0:
            place = layer * blocks * block_size + slot
        prepare(qkv, cos, sin, group, position, place, queries, fresh, k_cache, v_cache)
        if place >= 0:
            patch(fresh, first, row, column, position, k, v)
        hold_queries(queries, scale, (0, group, 0, heads), column, query)
        for i in range(held):
            mix[i] = float32(0)
        maximum, total = MINUS_INFINITY, float32(0)
        for tile in range(first, end, warps * tile_size):
            if tile > first:
                load(k_cache, v_cache, table, base, group, tile, row, column, begin, end, k, v)
            maximum, total = take(
                tile, row, column, begin, end, maximum, total, k_cache, k, v, query, mix
            )
        if warp < warps:
            leave(warp * rows + row, column, maximum, total, mix, maxima, sums, mixed)
        cuda.syncthreads()
        return asked

    @cuda.jit(device=True)
    def attend(meeting, stream, qkv, layer, mixed, attended, used, asked, attending):
        """Attend to a piece, and merge the pieces if it comes last; return the units asked for."""
        position = attending[5]
        piece_maxima, piece_sums, piece_mixed, done = attending[8:]
        queries = cuda.shared.array((1, heads, D), qkv.dtype)
        fresh = cuda.shared.array((2, D), qkv.dtype)
        maxima = cuda.shared.array(statistics, float32)
        sums = cuda.shared.array(statistics, float32)
        flag = cuda.shared.array(1, int32)
        group, piece = cuda.blockIdx.x // pieces, cuda.blockIdx.x % pieces
        context = position + 1
        length = max((context + pieces - 1) // pieces, LEAST_PIECE)
        live = (context + length - 1) // length
        if group >= G or piece >= live:
            return asked
        begin, end = piece * length, min((piece + 1) * length, context)
        asked = attend_to_piece(
            meeting, stream, qkv, layer, (group, begin, end), mixed, used, asked, attending,
            queries, fresh, maxima, sums,
        )  # fmt: skip
        to = (group * pieces + piece) * heads
        taken = min(warps, (end - begin // tile_size * tile_size + tile_size - 1) // tile_size)
        for i in range(cuda.threadIdx.x, heads * D, threads):
            h, d = i // D, i % D
            maximum, total, mix = merged(maxima, sums, mixed, h, taken * rows, heads, D, d)
            piece_mixed[(to + h) * D + d] = mix
            if d == 0:
                piece_maxima[to + h], piece_sums[to + h] = maximum, total
        if comes_last(done, group, live, flag):
            merge_pieces(group, live, piece_maxima, piece_sums, piece_mixed, attended)
            arrive(meeting[0], meeting[1] + 1)
        return asked

    return attend
