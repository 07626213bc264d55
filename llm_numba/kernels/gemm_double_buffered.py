"""The step of the GEMM ladder that computes on one slab while the next one comes in.

::

    vectorised       bring 0 | barrier | multiply 0 | barrier | bring 1 | barrier | multiply 1 | ..
    double_buffered  bring 0 | barrier | begin 1, multiply 0 | barrier | begin 2, multiply 1 | ..

Until now each block waited for memory, some thousand cycles a slab, and the other block of the SM
was all that filled the gap. Now a thread *begins* to copy the next slab into a second buffer, and
multiplies the one that is there. The copies pass the registers by, so they take none.

One barrier a slab is enough. Past it, all copies into the next buffer have arrived, and all threads
have done with the other, into which the copies go that begin now.
"""

import functools
from typing import Any

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_pieces import QUAD, STORED, Outputs, pitch_of, products, storing

SLAB_BYTES = 64


@functools.cache
def double_buffered(storage: str, side: int) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    side : int
        As for :func:`~llm_numba.kernels.gemm_vectorised.vectorised`.
    """
    SIDE, THREADS, TILE = side, side * side, side * side // 2
    WIDTH, FORM = ptx.VECTOR[storage], STORED[storage]
    PACKETS = SLAB_BYTES // 16
    SLAB = PACKETS * WIDTH
    PITCH = pitch_of(storage, SLAB)
    LOADS = TILE * PACKETS // THREADS
    ROWS = TILE // LOADS  # that all threads of a block copy at once
    PER = SIDE // 2
    PASSING = PER * THREADS
    STAGE = 2 * TILE * PITCH  # a slab of A, and one of W
    BOTH = 2 * STAGE
    load_rows, multiply = products(storage, SLAB, Outputs(PER, PER, SIDE, SIDE))
    store = storing(Outputs(PER, PER, SIDE, SIDE), THREADS)

    @cuda.jit(device=True)
    def begin(tiles, at, matrix, first, row, k):
        """Begin to copy rows of a matrix: its last row for later ones, zeros beyond K."""
        K, last = matrix.shape[1], matrix.shape[0] - 1
        for i in range(LOADS):
            source = min(first + row + i * ROWS, last) * K + k
            ptx.cp_async16_or_zeros(tiles, at + i * ROWS * PITCH, matrix, source, k < K)

    @cuda.jit(launch_bounds=(THREADS, 2))
    def gemm_double_buffered(a, w, bias, residual, activation, c):
        """Multiply one slab while the next is on its way; a barrier a slab."""
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        t = tx + ty * SIDE
        first_row, first_column = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
        tiles = cuda.shared.array(BOTH, FORM)
        passing = cuda.shared.array(PASSING, float32)
        total = cuda.local.array((PER, PER), float32)
        a_part = cuda.local.array((PER, QUAD), float32)
        for i in range(PER):
            for j in range(PER):
                total[i, j] = float32(0)

        row, place = t // PACKETS, t % PACKETS * WIDTH
        to_a, to_w = row * PITCH + place, (TILE + row) * PITCH + place
        begin(tiles, to_a, a, first_row, row, place)
        begin(tiles, to_w, w, first_column, row, place)
        ptx.cp_async_commit()
        here, other = 0, STAGE
        for k in range(SLAB, a.shape[1] + SLAB, SLAB):
            ptx.cp_async_wait(0)
            cuda.syncthreads()
            begin(tiles, other + to_a, a, first_row, row, k + place)
            begin(tiles, other + to_w, w, first_column, row, k + place)
            ptx.cp_async_commit()
            for s in range(0, SLAB, QUAD):
                load_rows(tiles, here + ty * PITCH + s, a_part)
                multiply(tiles, here + (TILE + tx) * PITCH + s, a_part, total, 0)
            here, other = other, here
        row, column = first_row + ty, first_column + tx
        store(total, passing, t, row, column, bias, residual, activation, c)

    return gemm_double_buffered
