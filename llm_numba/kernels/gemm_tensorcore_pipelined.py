r"""Tensor cores kept busy: large warp tiles, and fragments that come while others are multiplied.

*Why 64 x 64 a warp.* For 16 numbers along K a warp loads 64 + 64 rows, 4 KiB, and multiplies 32
times. Shared memory gives 128 bytes a cycle to four tensor cores: 32 cycles for each of the four
warps that multiply, 128 in sum. A tile of 64 x 32 takes 24 for half of the work, 192 for as much.
The 128 sums of a lane are half of its registers: a larger tile does not fit.

*Why fragments twice.* Between ``ldmatrix`` and the multiplication that wants it lie some 30 cycles.
With eight warps on an SM, two for each tensor core, the one has little to do while the other waits.
So each loads what it multiplies next before it multiplies:

::

    slab              |        here         |         next        |
    load fragments      1   |            0    1   |            0         number of 16 along K
    multiply            0   |            1    0   |            1
    bring a slab        ^                     ^
    wait, barrier                   ^                     ^               for the next slab

The barrier lies in the middle of the work: behind it come the last multiplications of a slab, whose
fragments are in registers already. And the stage that it frees is filled after the next load. In
which order a warp does all this is a *turn*: see :mod:`~llm_numba.kernels.gemm_tensorcore_turns`.

*Which block where.* Blocks start in the order of their numbers, as many at a time as there is
room: 132 on an H100. Counted down the columns, those of a moment make a strip, which wants all of A
and little of W. In groups of rows they make a square, and what they share is in the L2 cache:

::

    down the columns     in groups of 2 rows       M = N = K = 8192, tiles of 128 x 256:
    0  8  16 ..          0  2  4  6  8 ..          64 rows of 2 tiles    143 MB for 132 of them
    1  9  17 ..          1  3  5  7  9 ..          16 rows of 8          68 MB
    2 10  18 ..         16 18 20 22 24 ..          all of it is read 15.5 times, by 2,048 tiles

*A split of K* is one of several parts that different blocks work on, where blocks of whole sums
would not fill the GPU; :mod:`~llm_numba.kernels.gemm_split_k` adds them. With a *gate*, half of a
warp's columns come from the first half of W's rows, the others from the second.

Sources: Kerr, Merrill, Demouth and Tran, "CUTLASS: Fast Linear Algebra in CUDA C++", 2017; Thakkar
et al., "CUTLASS", "Efficient GEMM in CUDA" (software pipelining, threadblock rasterization).
"""

import functools
from typing import Any

from numba import cuda, float32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_pieces import STORED
from llm_numba.kernels.gemm_sources import aiming
from llm_numba.kernels.gemm_tensorcore_pieces import clear, storing, swizzled
from llm_numba.kernels.gemm_tensorcore_staged import bringing
from llm_numba.kernels.gemm_tensorcore_tiles import PACKET, WARP, Tile
from llm_numba.kernels.gemm_tensorcore_turns import loading


@cuda.jit(device=True)
def raster(block, down, across, group):
    """Return the row and the column of a block's tile: group by group of rows, column by column.

    Parameters
    ----------
    block : int
    down, across : int
        Tiles of C.
    group : int
        Rows of tiles; the last group has what is left.
    """
    first = block // (group * across) * group
    height = min(group, down - first)
    place = block - first * across
    return first + place % height, place // height


@functools.cache
def pipelined(storage: str, tile: Tile, gated: bool, turning: Any, /) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    tile : Tile
        Its splits do not matter.
    gated : bool
        Whether W is [2F, K], and two of its rows make one column of C.
    turning : callable
        :func:`~llm_numba.kernels.gemm_tensorcore_turns.bunched` or ``interleaved``.
    """
    ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, SLAB, STAGES = tile[:6]
    ACROSS, PACKETS = tile.warps_along_columns, tile.packets
    TOGETHER = tile.threads // PACKETS
    A_LOADS, W_LOADS = ROWS // TOGETHER, COLUMNS // TOGETHER
    DOWN, FRAGMENTS_ACROSS = tile.fragments
    PRODUCTS, FORM = DOWN * FRAGMENTS_ACROSS * 2, STORED[storage]
    STAGE, AHEAD = (ROWS + COLUMNS) * SLAB, (STAGES - 1) * SLAB
    LAST, UNDER_WAY = (STAGES - 1) * STAGE, STAGES - 2
    SHARE = WARP_COLUMNS // 2 if gated else WARP_COLUMNS  # columns of C that a warp makes
    bring, aim_packets = bringing(tile), aiming(storage, tile, gated)
    aim_a, aim_w, load, turn = *swizzled(tile)[1:3], loading(tile), turning(tile)
    store = storing(tile, gated)

    @cuda.jit(launch_bounds=(tile.threads, tile.blocks))
    def gemm_tensorcore(a, w, bias, residual, activation, group, span, c):
        """Make a tile of one of ``c [splits, M, N]``, of ``span`` numbers of K: whole slabs."""
        t, K = cuda.threadIdx.x, a.shape[1]
        down, across = t // WARP // ACROSS, t // WARP % ACROSS
        tiles_down = (c.shape[1] + ROWS - 1) // ROWS
        row, column = raster(cuda.blockIdx.x, tiles_down, cuda.gridDim.x // tiles_down, group)
        first_row, first_column = row * ROWS, column * (ACROSS * SHARE)
        # One memory: finished sums pass through it when the slabs are no longer needed.
        tiles, passing = cuda.shared.array(0, FORM), cuda.shared.array(0, float32)
        total = cuda.local.array((PRODUCTS, 4), float32)
        a_part, a_next = cuda.local.array((DOWN, 4), uint32), cuda.local.array((DOWN, 4), uint32)
        w_part = cuda.local.array((FRAGMENTS_ACROSS, 4), uint32)
        w_next = cuda.local.array((FRAGMENTS_ACROSS, 4), uint32)
        parts, others = (a_part, w_part), (a_next, w_next)
        a_at, w_at = cuda.local.array(A_LOADS, uint32), cuda.local.array(W_LOADS, uint32)
        clear(total)
        aim_packets(a, w, first_row, first_column, a_at, w_at)
        aims = aim_a(down * WARP_ROWS), aim_w(ROWS + across * WARP_COLUMNS)
        start = cuda.blockIdx.z * span
        inside = min(K, start + span) - start - t % PACKETS * PACKET  # numbers from a packet on
        a_from, w_from = first_row * K + start, first_column * K + start
        for k in range(0, AHEAD, SLAB):
            stage = k // SLAB * STAGE
            bring(tiles, stage, (a, a_from + k, a_at, w, w_from + k, w_at, k < inside))
        here, free = 0, LAST
        ptx.cp_async_wait(UNDER_WAY)
        cuda.syncthreads()
        load(tiles, here, aims, 0, parts)
        for k in range(AHEAD, min(K - start, span) + AHEAD, SLAB):
            after = here + STAGE if here < LAST else 0
            sources = a, a_from + k, a_at, w, w_from + k, w_at, k < inside
            turn(0, (tiles, here, after, free, sources, aims, parts, others, total))
            free, here = here, after
        ptx.cp_async_wait(0)
        cuda.syncthreads()
        row, column = first_row + down * WARP_ROWS, first_column + across * SHARE
        store(total, passing, row, column, bias, residual, activation, c[cuda.blockIdx.z])

    return gemm_tensorcore
