"""Tensor cores with one slab in shared memory: load, wait, multiply, wait.

A block of 8 warps makes 128 x 128 outputs, each warp 64 x 32 of them. For 16 numbers along K a warp
has four fragments of A and two of W, and multiplies each by each: 16 instructions of 16 x 8 x 16.

::

    block, 128 x 128             warp, 64 x 32                 fragments
    +----+----+----+----+        +----+----+----+----+         A:  4 of 16 x 16, 4 words a lane
    | w0 | w1 | w2 | w3 |        |16x8|    |    |    |         W:  2 of 16 x 16, 4 words a lane
    |    |    |    |    |        +----+----+----+----+             each two columns of products
    +----+----+----+----+        |    |    |    |    |         C: 16 of 16 x 8,  4 sums a lane
    | w4 | w5 | w6 | w7 |        +----+----+----+----+
    |    |    |    |    |          :
    +----+----+----+----+

*What fragments cost by words.* 24 loads of 4 bytes for 16 multiplications. A quarter of an SM has
one tensor core and issues one instruction a cycle; shared memory gives the four of them 128 bytes
a cycle. The loads, and the sums of addresses, take more slots than what they are for.

*What ldmatrix buys.* Six loads in place of 24, for the same bytes. The fewer instructions leave
the slots to the tensor cores. But while a slab comes in nobody multiplies, in this step as in the
one before: that is what is left to win.

Sources: "PTX ISA", ``mma``, ``ldmatrix``; Kerr, Merrill, Demouth and Tran, "CUTLASS: Fast Linear
Algebra in CUDA C++", 2017.
"""

import functools
from typing import Any

from numba import cuda, float32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_pieces import STORED
from llm_numba.kernels.gemm_tensorcore_pieces import clear, multiplying, storing
from llm_numba.kernels.gemm_tensorcore_tiles import FRAGMENT, PACKET, WARP, Tile


@functools.cache
def unstaged(storage: str, tile: Tile, layout: Any) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    tile : Tile
        Its stages and splits do not matter.
    layout : callable
        :func:`~llm_numba.kernels.gemm_tensorcore_pieces.padded` or ``swizzled``.
    """
    ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, SLAB = tile[:5]
    ACROSS, THREADS, PACKETS = tile.warps_along_columns, tile.threads, tile.packets
    TOGETHER, STEPS = THREADS // PACKETS, SLAB // FRAGMENT
    DOWN, FRAGMENTS_ACROSS = tile.fragments
    PRODUCTS, FORM = DOWN * FRAGMENTS_ACROSS * 2, STORED[storage]
    place, aim_a, aim_w, load_a, load_w = layout(tile)
    multiply, store = multiplying(tile), storing(tile)

    @cuda.jit(device=True)
    def bring(tiles, top, rows, matrix, first, row, packet, k):
        """Bring rows of a matrix: its last row for later ones, zeros beyond K."""
        K, last = matrix.shape[1], matrix.shape[0] - 1
        for i in range(0, rows, TOGETHER):
            at = min(first + row + i, last) * K + k
            words = ptx.load_raw16_or_zeros(matrix, at, k < K)
            ptx.store_raw16(tiles, place(top + row + i, packet), words)

    @cuda.jit(launch_bounds=(THREADS, tile.blocks))
    def gemm_unstaged(a, w, bias, residual, activation, c):
        """Multiply a slab, then bring the next."""
        t = cuda.threadIdx.x
        row, column = t // WARP // ACROSS * WARP_ROWS, t // WARP % ACROSS * WARP_COLUMNS
        first_row, first_column = cuda.blockIdx.x * ROWS, cuda.blockIdx.y * COLUMNS
        # One memory: finished sums pass through it when the slab is no longer needed.
        tiles, passing = cuda.shared.array(0, FORM), cuda.shared.array(0, float32)
        total = cuda.local.array((PRODUCTS, 4), float32)
        a_part = cuda.local.array((DOWN, 4), uint32)
        w_part = cuda.local.array((FRAGMENTS_ACROSS, 4), uint32)
        clear(total)
        a_at, w_at = aim_a(row), aim_w(ROWS + column)
        bringing, packet = t // PACKETS, t % PACKETS
        for k in range(packet * PACKET, a.shape[1] + packet * PACKET, SLAB):
            bring(tiles, 0, ROWS, a, first_row, bringing, packet, k)
            bring(tiles, ROWS, COLUMNS, w, first_column, bringing, packet, k)
            cuda.syncthreads()
            for step in range(STEPS):
                load_a(tiles, 0, a_at, step, a_part)
                load_w(tiles, 0, w_at, step, w_part)
                multiply(0, (tiles, a_part, w_part, total))
            cuda.syncthreads()
        row, column = first_row + row, first_column + column
        store(total, passing, row, column, bias, residual, activation, c)

    return gemm_unstaged
