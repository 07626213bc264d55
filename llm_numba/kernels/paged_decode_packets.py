r"""The steps ``vectorised`` and ``staged``: how tiles of keys and values come to the lanes.

Both compute with :mod:`~llm_numba.kernels.paged_decode_lanes`. They differ in where a tile is while
it is on its way:

::

    vectorised    memory ==> registers of the lane; then it computes, then it asks for the next
    staged        memory ==> ring of tiles in shared memory, the next ones always on their way

                  ring of a warp     | tile t + 2 | tile t     | tile t + 1 |
                                       arriving     in use       arriving

Each lane copies into the ring what it will read itself. So a warp waits for nobody else, and there
is no barrier in the loop.
"""

import functools

from numba import cuda, float32, uint32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.paged_decode_lanes import lane_functions
from llm_numba.kernels.paged_decode_parts import WARP, place_of, store_merged, visible
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.unrolled import unrolled
from llm_numba.runtime import starts_early


@functools.cache
def decode_vectorised(layout):
    """Make the kernel of the step ``vectorised``.

    Parameters
    ----------
    layout : Layout
    """
    _, _, width, heads, loads, warps = layout
    lanes, rows, turns, parts = layout.lanes, layout.rows, layout.turns, layout.parts
    held, tile_size, last = heads * turns * width, layout.tile, layout.packets - 1
    sums_of_lane, words_held = heads * loads, 4 * loads * turns
    statistics, mixed_size = parts * heads, parts * heads * layout.head_dim
    do = lane_functions(layout)
    hold_queries, locate, score, weigh, mix_in, leave = do

    @cuda.jit(device=True)
    def load(cache, starts, column, words):
        """Load packets of several positions, all of them before the first is used."""
        for j in range(loads):
            for turn in range(turns):
                at = starts[j] + min(column + turn * lanes, last) * width
                packet = ptx.load_raw16(cache, at)
                for i in range(4):
                    words[4 * (j * turns + turn) + i] = packet[i]

    @cuda.jit(launch_bounds=WARP * warps)
    def vectorised(q, k_cache, v_cache, block_tables, context_lens, scale, window, out):
        """Load 16 bytes a lane, several positions at once, and share out their additions.

        The words of keys and values stay packed until they are used: 4 registers a packet, and
        not 8.
        """
        maxima = cuda.shared.array(statistics, float32)
        sums = cuda.shared.array(statistics, float32)
        mixed = cuda.shared.array(mixed_size, float32)
        query, mix = cuda.local.array(held, float32), cuda.local.array(held, float32)
        scores, starts = cuda.local.array(sums_of_lane, float32), cuda.local.array(loads, uint64)
        k, v = cuda.local.array(words_held, uint32), cuda.local.array(words_held, uint32)
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        row, column = lane // lanes, lane % lanes
        place = place_of(cuda.blockIdx.x, heads, q.shape[1], k_cache.shape[2])
        begin, end = visible(context_lens, window, place[0])
        hold_queries(q, scale, place, column, query)
        for i in range(held):
            mix[i] = float32(0)
        maximum, total = MINUS_INFINITY, float32(0)
        first = (begin // tile_size + warp) * tile_size
        for tile in range(first, end, warps * tile_size):
            locate(block_tables, k_cache.shape[2], place, tile, row, begin, end, starts)
            load(k_cache, starts, column, k)
            load(v_cache, starts, column, v)
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
                    mix_in(ptx.widen_raw16(v_cache, words), scores, mix, row, j, turn)
        leave(warp * rows + row, column, maximum, total, mix, maxima, sums, mixed)
        cuda.syncthreads()
        store_merged(maxima, sums, mixed, parts, heads, place, out)

    return vectorised


def ring_bytes(layout, stages):
    """Return the dynamic shared memory of a block: its warps' rings, and after them the parts.

    Parameters
    ----------
    layout : Layout
    stages : int
        Tiles of keys, and of values, in the ring of a warp.
    """
    ring = layout.warps * stages * 2 * layout.loads * layout.turns * WARP * 16
    return max(ring, layout.parts * layout.heads * layout.head_dim * 4)


@functools.cache
def attend_from_ring(layout, stages):
    """Make the device function that takes a block through some positions of a context.

    Parameters
    ----------
    layout : Layout
    stages : int
        2 or more.

    Returns
    -------
    device function
        ``(q, k_cache, v_cache, block_tables, begin, end, scale, place, maxima, sums, mixed)``:
        afterwards the parts of all rows of lanes are in shared memory, `mixed` in the place of
        the ring.
    """
    _, _, width, heads, loads, warps = layout
    lanes, rows, turns, tile_size = layout.lanes, layout.rows, layout.turns, layout.tile
    held, last, sums_of_lane = heads * turns * width, layout.packets - 1, heads * loads
    # In elements of the ring: a packet of each lane, a tile of keys, keys and values, all stages.
    line = WARP * width
    half = loads * turns * line
    stage_size, ring_size, ahead = 2 * half, 2 * half * stages, stages - 1
    do = lane_functions(layout)
    hold_queries, locate, score, weigh, mix_in, leave = do

    @cuda.jit(device=True, forceinline=True)
    def score_packet(n, operands):
        """Score packet n of the ring."""
        ring, at, query, scores = operands
        score(ptx.load16(ring, at + n * line), query, scores, n // turns, n % turns)

    @cuda.jit(device=True, forceinline=True)
    def mix_packet(n, operands):
        """Mix in packet n of the ring."""
        ring, at, scores, mix, row = operands
        mix_in(ptx.load16(ring, at + n * line), scores, mix, row, n // turns, n % turns)

    score_all = unrolled(loads * turns, score_packet)
    mix_all = unrolled(loads * turns, mix_packet)

    @cuda.jit(device=True)
    def fetch(
        k_cache, v_cache, block_tables, place, tile, row, column, begin, end, ring, to, starts
    ):
        """Begin to copy a tile; past the end there is none, and an empty group keeps count."""
        if tile < end:
            locate(block_tables, k_cache.shape[2], place, tile, row, begin, end, starts)
            for j in range(loads):
                for turn in range(turns):
                    at = starts[j] + min(column + turn * lanes, last) * width
                    here = to + (j * turns + turn) * line
                    ptx.cp_async16(ring, here, k_cache, at)
                    ptx.cp_async16(ring, here + half, v_cache, at)
        ptx.cp_async_commit()

    @cuda.jit(device=True)
    def attend(q, k_cache, v_cache, block_tables, begin, end, scale, place, maxima, sums, mixed):
        """Walk over the tiles of a piece, some stages ahead of what is used."""
        ring = cuda.shared.array(0, k_cache.dtype)
        query, mix = cuda.local.array(held, float32), cuda.local.array(held, float32)
        scores, starts = cuda.local.array(sums_of_lane, float32), cuda.local.array(loads, uint64)
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        row, column = lane // lanes, lane % lanes
        step, mine = warps * tile_size, warp * ring_size + lane * width
        first = (begin // tile_size + warp) * tile_size
        for stage in range(ahead):
            fetch(
                k_cache, v_cache, block_tables, place, first + stage * step, row, column,
                begin, end, ring, mine + stage * stage_size, starts,
            )  # fmt: skip
        hold_queries(q, scale, place, column, query)
        for i in range(held):
            mix[i] = float32(0)
        maximum, total, stage, free = MINUS_INFINITY, float32(0), 0, ahead
        for tile in range(first, end, step):
            fetch(
                k_cache, v_cache, block_tables, place, tile + ahead * step, row, column,
                begin, end, ring, mine + free * stage_size, starts,
            )  # fmt: skip
            ptx.cp_async_wait(ahead)
            here = mine + stage * stage_size
            for i in range(sums_of_lane):
                scores[i] = float32(0)
            score_all(0, (ring, here, query, scores))
            maximum, total = weigh(scores, tile, row, column, begin, end, maximum, total, mix)
            mix_all(0, (ring, here + half, scores, mix, row))
            free = stage
            stage = stage + 1 if stage + 1 < stages else 0
        cuda.syncthreads()  # the parts go where the rings were
        leave(warp * rows + row, column, maximum, total, mix, maxima, sums, mixed)
        cuda.syncthreads()

    return attend


@functools.cache
def decode_staged(layout, stages):
    """Make the kernel of the step ``staged``.

    Parameters
    ----------
    layout : Layout
    stages : int
    """
    parts, heads = layout.parts, layout.heads
    statistics = parts * heads
    attend = attend_from_ring(layout, stages)

    @starts_early
    @cuda.jit(launch_bounds=WARP * layout.warps)
    def staged(q, k_cache, v_cache, block_tables, context_lens, scale, window, out):
        """Keep tiles on their way to shared memory while the one that is there is used."""
        ptx.release_next_kernel()
        ptx.await_previous_kernel()
        maxima = cuda.shared.array(statistics, float32)
        sums = cuda.shared.array(statistics, float32)
        mixed = cuda.shared.array(0, float32)
        place = place_of(cuda.blockIdx.x, heads, q.shape[1], k_cache.shape[2])
        begin, end = visible(context_lens, window, place[0])
        attend(q, k_cache, v_cache, block_tables, begin, end, scale, place, maxima, sums, mixed)
        store_merged(maxima, sums, mixed, parts, heads, place, out)

    return staged
