"""The step of the GEMM ladder that moves 16 bytes at a time.

The tile of a block and the outputs of a thread are those of ``register_tile``. What differs is how
numbers travel: four of a row at once, from global into shared memory and from there into registers
(eight, where they are stored in 16 bits), and as :mod:`~llm_numba.kernels.gemm_pieces` lays them
out. A quarter as many instructions move the same bytes. Shared memory is read by quarters of a warp
then: lanes tx = 0 .. 7 take packets of 8 rows of W, which lie in 8 different groups of banks; of A
they all want the same packet.

It needs rows that begin at multiples of 16 bytes. Where they do not, ``register_tile`` is right.
"""

import functools
from typing import Any

from numba import cuda, float32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_pieces import QUAD, STORED, Outputs, pitch_of, products, storing

SLAB_BYTES = 64


@functools.cache
def vectorised(storage: str, side: int) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    side : int
        Threads along each axis of a block: 16 make a tile of 128 x 128 outputs, 8 one of 32 x 32.
    """
    SIDE, THREADS, TILE = side, side * side, side * side // 2
    WIDTH, FORM = ptx.VECTOR[storage], STORED[storage]
    PACKETS = SLAB_BYTES // 16
    SLAB = PACKETS * WIDTH
    PITCH = pitch_of(storage, SLAB)
    LOADS = TILE * PACKETS // THREADS
    ROWS = TILE // LOADS  # that all threads of a block bring in at once
    PER = SIDE // 2
    PASSING = PER * THREADS
    # What widens numbers has not enough registers, if they are to suffice for two blocks on an SM.
    BLOCKS = 2 if storage == "float32" else 1
    outputs = Outputs(PER, PER, SIDE, SIDE)
    load_rows, multiply = products(storage, SLAB, outputs)
    store = storing(outputs, THREADS)

    @cuda.jit(device=True)
    def bring(tile, at, matrix, first, row, k):
        """Bring rows of a matrix into a tile, zeros beyond the end of K, the last row for later."""
        K, last = matrix.shape[1], matrix.shape[0] - 1
        for i in range(LOADS):
            packet = uint32(0), uint32(0), uint32(0), uint32(0)
            if k < K:
                packet = ptx.load_raw16(matrix, min(first + row + i * ROWS, last) * K + k)
            ptx.store_raw16(tile, at + i * ROWS * PITCH, packet)

    @cuda.jit(launch_bounds=(THREADS, BLOCKS))
    def gemm_vectorised(a, w, bias, residual, activation, c):
        """Move numbers four at a time (eight, of 2 bytes), in and out of shared memory."""
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        t = tx + ty * SIDE
        first_row, first_column = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
        a_tile = cuda.shared.array((TILE, PITCH), FORM)
        w_tile = cuda.shared.array((TILE, PITCH), FORM)
        passing = cuda.shared.array(PASSING, float32)
        total = cuda.local.array((PER, PER), float32)
        a_part = cuda.local.array((PER, QUAD), float32)
        for i in range(PER):
            for j in range(PER):
                total[i, j] = float32(0)

        row, place = t // PACKETS, t % PACKETS * WIDTH
        at = row * PITCH + place
        for k in range(0, a.shape[1], SLAB):
            bring(a_tile, at, a, first_row, row, k + place)
            bring(w_tile, at, w, first_column, row, k + place)
            cuda.syncthreads()
            for s in range(0, SLAB, QUAD):
                load_rows(a_tile, ty * PITCH + s, a_part)
                multiply(w_tile, tx * PITCH + s, a_part, total, 0)
            cuda.syncthreads()
        row, column = first_row + ty, first_column + tx
        store(total, passing, t, row, column, bias, residual, activation, c)

    return gemm_vectorised
