"""Tensor cores with several slabs in shared memory: what is multiplied later is on its way.

Memory answers after some 600 cycles and more; a slab of 32 is multiplied in some 300. So one slab
ahead is too few, and three are on their way while one is multiplied:

::

    stage   0  1  2  3        | multiply 0 | multiply 1 | multiply 2 | ..
    copies  3 under way        bring 3 -->3  bring 4 -->0  bring 5 -->1
                              ^            ^
                              slab 0 has arrived, and nobody reads stage 3 any more

The copies go by ``cp.async``, past the registers, each group of a slab by itself. At the top of a
turn a thread waits until at most two of its groups are under way: the oldest has arrived. The
barrier behind it says so to the others, and says as well that all have done with the slab before:
its stage is where the next one goes. So one barrier a slab is enough.

A slab beyond the last is brought as zeros, and not multiplied: turns are all alike.
"""

import functools
import math
from typing import Any

from numba import cuda, float32, int32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_pieces import STORED
from llm_numba.kernels.gemm_sources import aiming
from llm_numba.kernels.gemm_tensorcore_pieces import clear, multiplying, storing, swizzled
from llm_numba.kernels.gemm_tensorcore_tiles import FRAGMENT, PACKET, WARP, Tile


@functools.cache
def copying(tile: Tile, shares: int = 1) -> Any:
    """Make the device function that begins to copy a share of a slab.

    Parameters
    ----------
    tile : Tile
    shares : int
        Shares of a slab; with more than a thread has packets, the last are empty.

    Returns
    -------
    device function
        ``copy(share, tiles, stage, (a, a_from, a_at, w, w_from, w_at, inside))`` copies some of a
        thread's packets of A and of W into a stage; zeros where they lie beyond the end of K.
    """
    ROWS, TOGETHER, PACKETS = tile.rows, tile.threads // tile.packets, tile.packets
    STEP = TOGETHER * tile.slab
    A_LOADS, W_LOADS = ROWS // TOGETHER, tile.columns // TOGETHER
    A_SHARE, W_SHARE = math.ceil(A_LOADS / shares), math.ceil(W_LOADS / shares)
    place = swizzled(tile).place

    @cuda.jit(device=True, forceinline=True)
    def copy(share, tiles, stage, sources):
        """Begin to copy a share of a slab."""
        a, a_from, a_at, w, w_from, w_at, inside = sources
        t = cuda.threadIdx.x
        # Rows that a thread brings stand a multiple of 8 apart, so one swizzle serves all.
        to = stage + place(t // PACKETS, t % PACKETS)
        for i in range(share * A_SHARE, min((share + 1) * A_SHARE, A_LOADS)):
            ptx.cp_async16_or_zeros(tiles, to + i * STEP, a, a_from + a_at[i], inside)
        to += ROWS * tile.slab
        for i in range(share * W_SHARE, min((share + 1) * W_SHARE, W_LOADS)):
            ptx.cp_async16_or_zeros(tiles, to + i * STEP, w, w_from + w_at[i], inside)

    return copy


@functools.cache
def bringing(tile: Tile) -> Any:
    """Make the device function that begins to copy a whole slab, as a group.

    Parameters
    ----------
    tile : Tile

    Returns
    -------
    device function
        ``bring(tiles, stage, sources)`` with sources as :func:`copying`'s.
    """
    copy = copying(tile)

    @cuda.jit(device=True, forceinline=True)
    def bring(tiles, stage, sources):
        """Begin to copy a slab, and close the group."""
        copy(0, tiles, stage, sources)
        ptx.cp_async_commit()

    return bring


@functools.cache
def staged(storage: str, tile: Tile) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    tile : Tile
        Its splits do not matter.
    """
    ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, SLAB, STAGES = tile[:6]
    ACROSS, PACKETS, STEPS = tile.warps_along_columns, tile.packets, SLAB // FRAGMENT
    TOGETHER = tile.threads // PACKETS
    A_LOADS, W_LOADS = ROWS // TOGETHER, COLUMNS // TOGETHER
    DOWN, FRAGMENTS_ACROSS = tile.fragments
    PRODUCTS, FORM = DOWN * FRAGMENTS_ACROSS * 2, STORED[storage]
    STAGE, AHEAD = (ROWS + COLUMNS) * SLAB, (STAGES - 1) * SLAB
    LAST, UNDER_WAY = (STAGES - 1) * STAGE, STAGES - 2
    bring, aim_packets = bringing(tile), aiming(storage, tile, False)
    _, aim_a, aim_w, load_a, load_w = swizzled(tile)
    multiply, store = multiplying(tile), storing(tile)

    @cuda.jit(launch_bounds=(tile.threads, tile.blocks))
    def gemm_staged(a, w, bias, residual, activation, c):
        """Multiply one slab while others are on their way."""
        t, K = cuda.threadIdx.x, a.shape[1]
        row, column = t // WARP // ACROSS * WARP_ROWS, t // WARP % ACROSS * WARP_COLUMNS
        first_row, first_column = cuda.blockIdx.x * ROWS, cuda.blockIdx.y * COLUMNS
        # One memory: finished sums pass through it when the slabs are no longer needed.
        tiles, passing = cuda.shared.array(0, FORM), cuda.shared.array(0, float32)
        total = cuda.local.array((PRODUCTS, 4), float32)
        a_part = cuda.local.array((DOWN, 4), uint32)
        w_part = cuda.local.array((FRAGMENTS_ACROSS, 4), uint32)
        a_at, w_at = cuda.local.array(A_LOADS, int32), cuda.local.array(W_LOADS, int32)
        clear(total)
        aim_packets(a, w, first_row, first_column, a_at, w_at)
        at_a, at_w, place = aim_a(row), aim_w(ROWS + column), t % PACKETS * PACKET
        a_from, w_from = first_row * K, first_column * K
        for k in range(0, AHEAD, SLAB):
            stage = k // SLAB * STAGE
            bring(tiles, stage, (a, a_from + k, a_at, w, w_from + k, w_at, k + place < K))
        here, free = 0, LAST
        for k in range(AHEAD, K + AHEAD, SLAB):
            ptx.cp_async_wait(UNDER_WAY)
            cuda.syncthreads()
            bring(tiles, free, (a, a_from + k, a_at, w, w_from + k, w_at, k + place < K))
            for step in range(STEPS):
                load_a(tiles, here, at_a, step, a_part)
                load_w(tiles, here, at_w, step, w_part)
                multiply(0, (tiles, a_part, w_part, total))
            free, here = here, (here + STAGE if here < LAST else 0)
        ptx.cp_async_wait(0)
        cuda.syncthreads()
        row, column = first_row + row, first_column + column
        store(total, passing, row, column, bias, residual, activation, c)

    return gemm_staged
