r"""The step ``joined``: a short context in one launch, as few instructions as there may be.

A context of some hundred positions is a few hundred kilobytes: less than a microsecond of the
memory's time. What counts is how many instructions a warp has between loads that wait for one
another, and how many launches there are. So this step differs in both:

::

    split     K, V -> ring -> a part a row of lanes -> a piece   | launch |   pieces -> out
    joined    K, V -> registers -> a part a warp -> a piece -> last block of the context -> out

Tiles pass from memory to registers, and are few: many warps have one each. The rows of lanes
of a warp *fold* into one part by an exchange, so that a block has as many parts as warps. And the
last block of a context merges the pieces. Who is the last, a counter tells:

::

    block of piece 0    leaves m, l, a    counter 0 -> 1
    block of piece 2    leaves m, l, a    counter 1 -> 2
    block of piece 1    leaves m, l, a    counter 2 -> 3: of 3, so it merges, and writes 0 there

Pieces merge in their order, whoever does it: the same bits every time.
"""

import functools

from numba import cuda, float32, int32, uint32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.exchange import exchange
from llm_numba.kernels.paged_decode_lanes import lane_functions
from llm_numba.kernels.paged_decode_parts import WARP, merged, store_merged, visible
from llm_numba.kernels.reduce import FULL_WARP
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import reference_point
from llm_numba.runtime import starts_early

# The most pieces of a context: what one block can merge in the shared memory of any GPU.
MOST_PIECES = 16
_ANY_GPU_BYTES = 40 * 1024


def joined_bytes(layout):
    """Return the dynamic shared memory of a block: its warps' parts, and after them the pieces.

    Parameters
    ----------
    layout : Layout
    """
    return max(layout.warps, MOST_PIECES) * layout.heads * layout.head_dim * 4


def can_join(layout):
    """Tell whether the step has a kernel for a layout.

    Each lane must have one packet of a position, or folds would not be of equal halves. A tile must
    lie in one block of the cache. A lane must keep whole quads of numbers behind the fold, which it
    stores 16 bytes at a time. And there must be room for the parts on any GPU.

    Parameters
    ----------
    layout : Layout
    """
    kept = layout.heads * layout.width // layout.rows
    whole = layout.packets == layout.lanes and layout.block_size % layout.tile == 0
    fits = layout.turns == 1 and joined_bytes(layout) <= _ANY_GPU_BYTES
    return whole and fits and kept > 0 and kept % 4 == 0


@cuda.jit(device=True)
def packet(words, j):
    """Return the 4 words of packet j of several."""
    return words[4 * j], words[4 * j + 1], words[4 * j + 2], words[4 * j + 3]


@functools.cache
def tile_functions(layout):
    """Make the device functions that load a tile into registers, and fold rows of lanes.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    load
        ``(k_cache, v_cache, block, kv_head, tile, row, column, begin, end, k, v)``: load the
        lane's packets of a tile that lies in a block of the cache; a position outside takes the
        nearest.
    fold
        ``(warp, row, column, maximum, total, mix, maxima, sums, mixed)``: make one part of a
        warp's rows, and store it in shared memory.
    """
    head_dim, block_size, width, heads, loads, _ = layout
    lanes, rows = layout.lanes, layout.rows
    lanes_of_head, held = lanes // heads, heads * width
    kept = held // rows
    # Lanes of a head that hold the same score, of which a sum may count one.
    copies = max(1, lanes_of_head // loads)
    add_rows = exchange(held, rows, lanes)

    @cuda.jit(device=True)
    def load(k_cache, v_cache, block, kv_head, tile, row, column, begin, end, k, v):
        """Load packets of several positions, all of them before the first is used."""
        stride = uint32(k_cache.shape[2] * head_dim)
        first = uint64(uint32(block)) * block_size + uint32(tile) % uint32(block_size)
        first = first * stride + kv_head * head_dim + column * width
        lowest, highest = uint32(max(begin - tile, 0)), uint32(end - 1 - tile)
        for j in range(loads):
            inner = max(lowest, min(uint32(j * rows + row), highest))
            at = first + uint64(inner * stride)
            keys, values = ptx.load_raw16(k_cache, at), ptx.load_raw16(v_cache, at)
            for i in range(4):
                k[4 * j + i], v[4 * j + i] = keys[i], values[i]

    @cuda.jit(device=True)
    def over_rows(value, larger):
        """Add a number over the lanes of a head in all rows, or find the largest.

        Neighbours in a row differ in their low bits of the lane, those of other rows in high ones.
        """
        for distance in (1, 2, 4, 8, 16):
            if distance < lanes_of_head or distance >= lanes:
                other = cuda.shfl_xor_sync(FULL_WARP, value, distance)
                value = max(value, other) if larger else value + other
        return value

    @cuda.jit(device=True)
    def fold(warp, row, column, maximum, total, mix, maxima, sums, mixed):
        """Bring all rows to one maximum; then sums and mixes add up."""
        largest = over_rows(maximum, True)
        factor = ptx.exp2(maximum - reference_point(largest))
        total = over_rows(total * factor if column % copies == 0 else float32(0), False)
        for h in range(heads):
            change = cuda.shfl_sync(FULL_WARP, factor, row * lanes + h * lanes_of_head)
            for e in range(width):
                mix[h * width + e] *= change
        add_rows(mix, row)
        if row == 0 and column % lanes_of_head == 0:
            maxima[warp * heads + column // lanes_of_head] = largest
            sums[warp * heads + column // lanes_of_head] = total
        for n in range(0, kept, 4):
            h, e = (row * kept + n) // width, (row * kept + n) % width
            quad = (mix[n], mix[n + 1], mix[n + 2], mix[n + 3])
            ptx.store16(mixed, (warp * heads + h) * head_dim + column * width + e, quad)

    return load, fold


@functools.cache
def piece_function(heads, group):
    """Make the device function that tells a block what it is for.

    Parameters
    ----------
    heads : int
        Query heads that a block takes.
    group : int
        Query heads of a KV head.

    Returns
    -------
    device function
        ``(context_lens, window, piece)``; returns the place, as
        :func:`~llm_numba.kernels.paged_decode_parts.place_of` does; the first piece of its context
        that the new token sees, and how many there are; where its own begins and ends, and how long
        the context is.
    """
    shares = -(-group // heads)

    @cuda.jit(device=True)
    def find(context_lens, window, piece):
        """Find it from the block's number: pieces along x, heads along y, sequences along z."""
        sequence, kv_head = cuda.blockIdx.z, cuda.blockIdx.y // shares
        first_head = cuda.blockIdx.y % shares * heads
        place = sequence, kv_head, kv_head * group + first_head, min(heads, group - first_head)
        begin, context = visible(context_lens, window, sequence)
        first = uint32(begin) // uint32(piece)
        pieces = uint32(context + piece - 1) // uint32(piece) - first
        begin = max(begin, cuda.blockIdx.x * piece)
        end = min(context, (cuda.blockIdx.x + 1) * piece)
        return place, (first, pieces), (begin, end, context)

    return find


@functools.cache
def join_function(heads, head_dim, threads):
    """Make the device function that hands a block's piece over, and tells who merges.

    Parameters
    ----------
    heads, head_dim : int
        Of a block.
    threads : int

    Returns
    -------
    device function
        ``(parts, share, first, pieces, arrived, ...)``, see there.
    """
    outputs = heads * head_dim

    @cuda.jit(device=True)
    def join(parts, share, first, pieces, arrived, workspace, maxima, sums, mixed, flag):
        """Leave the block's piece; if all others are there, bring them into shared memory.

        Returns whether they are: then `maxima`, `sums` and `mixed` have a part for each piece.
        """
        piece_maxima, piece_sums, piece_mixed = workspace
        thread, base = int32(cuda.threadIdx.x), share * cuda.gridDim.x
        for i in range(thread, outputs, threads):
            h, d = i // head_dim, i % head_dim
            maximum, total, mix = merged(maxima, sums, mixed, h, parts, heads, head_dim, d)
            piece_mixed[(base + cuda.blockIdx.x) * outputs + i] = mix
            if d == 0:
                to = (base + cuda.blockIdx.x) * heads + h
                piece_maxima[to], piece_sums[to] = maximum, total
        cuda.syncthreads()
        if thread == 0:
            flag[0] = ptx.add_acq_rel(arrived, share, int32(1))
        cuda.syncthreads()
        if flag[0] != pieces - 1:
            return False
        base += first
        for i in range(thread, pieces * outputs // 4, threads):
            ptx.cp_async16(mixed, 4 * i, piece_mixed, base * outputs + 4 * i)
        ptx.cp_async_commit()
        for i in range(thread, pieces * heads, threads):
            maxima[i], sums[i] = piece_maxima[base * heads + i], piece_sums[base * heads + i]
        if thread == 0:
            cuda.atomic.sub(arrived, share, int32(pieces))
        ptx.cp_async_wait(0)
        cuda.syncthreads()
        return True

    return join


@functools.cache
def finish_function(layout):
    """Make the device function that brings a block's warps, and a context's blocks, together.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    device function
        ``(place, pieces, row, column, maximum, total, mix, arrived, workspace, out)``, with the
        first piece and how many there are.
    """
    heads, head_dim, warps = layout.heads, layout.head_dim, layout.warps
    statistics = max(warps, MOST_PIECES) * heads
    _, fold = tile_functions(layout)
    join = join_function(heads, head_dim, WARP * warps)

    @cuda.jit(device=True)
    def finish(place, pieces, row, column, maximum, total, mix, arrived, workspace, out):
        """Merge the warps; if the context has more pieces, the last block merges those."""
        maxima = cuda.shared.array(statistics, float32)
        sums = cuda.shared.array(statistics, float32)
        mixed, flag = cuda.shared.array(0, float32), cuda.shared.array(1, int32)
        fold(cuda.threadIdx.x // WARP, row, column, maximum, total, mix, maxima, sums, mixed)
        cuda.syncthreads()
        first, count = pieces
        parts = warps
        if count > 1:
            share = cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y
            if not join(warps, share, first, count, arrived, workspace, maxima, sums, mixed, flag):
                return
            parts = count
        store_merged(maxima, sums, mixed, parts, heads, place, out)

    return finish


@functools.cache
def decode_joined(layout, group):
    """Make the kernel of the step ``joined``.

    Parameters
    ----------
    layout : Layout
    group : int
        Query heads of a KV head: known here, they cost no division.
    """
    _, block_size, _, heads, loads, warps = layout
    lanes, tile_size, sums_of_lane = layout.lanes, layout.tile, heads * loads
    held, words, threads = heads * layout.width, 4 * loads, WARP * warps
    step = warps * tile_size
    do = lane_functions(layout)
    hold_queries, _, score, weigh, mix_in, _ = do
    find, finish = piece_function(heads, group), finish_function(layout)
    load, _ = tile_functions(layout)

    @starts_early
    @cuda.jit(launch_bounds=threads)
    def joined(
        q, k_cache, v_cache, block_tables, context_lens, scale, window, piece, arrived,
        piece_maxima, piece_sums, piece_mixed, out,
    ):  # fmt: skip
        """Take one piece of a context, a tile a warp; the last block to end merges them all."""
        ptx.await_previous_kernel()
        query, mix = cuda.local.array(held, float32), cuda.local.array(held, float32)
        scores = cuda.local.array(sums_of_lane, float32)
        k, v = cuda.local.array(words, uint32), cuda.local.array(words, uint32)
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        row, column = lane // lanes, lane % lanes
        place, pieces, (begin, end, _) = find(context_lens, window, piece)
        sequence, kv_head = place[:2]
        # A context of no position has no piece; then the first block writes zeros.
        if begin >= end and (pieces[1] > 0 or cuda.blockIdx.x > 0):
            return
        first_tile = (begin // tile_size + warp) * tile_size
        if first_tile < end:
            block = block_tables[sequence, uint32(first_tile) // uint32(block_size)]
            load(k_cache, v_cache, block, kv_head, first_tile, row, column, begin, end, k, v)
        hold_queries(q, scale, place, column, query)
        ptx.release_next_kernel()
        for i in range(held):
            mix[i] = float32(0)
        maximum, total = MINUS_INFINITY, float32(0)
        for tile in range(first_tile, end, step):
            if tile > first_tile:
                block = block_tables[sequence, uint32(tile) // uint32(block_size)]
                load(k_cache, v_cache, block, kv_head, tile, row, column, begin, end, k, v)
            for i in range(sums_of_lane):
                scores[i] = float32(0)
            for j in range(loads):
                score(ptx.widen_raw16(k_cache, packet(k, j)), query, scores, j, 0)
            maximum, total = weigh(scores, tile, row, column, begin, end, maximum, total, mix)
            for j in range(loads):
                mix_in(ptx.widen_raw16(v_cache, packet(v, j)), scores, mix, row, j, 0)
        workspace = piece_maxima, piece_sums, piece_mixed
        finish(place, pieces, row, column, maximum, total, mix, arrived, workspace, out)

    return joined
