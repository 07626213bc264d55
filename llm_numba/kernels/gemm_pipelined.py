"""The step of the GEMM ladder in which nothing waits at the moment that it is needed.

``warp_tile`` stands idle at the top of each slab, where it waits for copies and for all threads,
and before each quad of k, where it waits for its rows of A. ``pipelined`` has both come early:

::

    slab        |      here       |      next       |
    multiply    | 0 | 1 | 2 | 3   | 0 | 1 | 2 | 3   |     quads of k
    load rows     1 | 2 | 3 |   0   1 | 2 | 3 |   0       of A, of the quad after it
                            ^                   ^
                            the next slab has arrived, and its successor is begun

The barrier comes before the last quad of a slab. Behind it the rows of the next slab's first quad
are loaded, and the last quad hides their way. Threads still read the old slab's W then, so what is
begun there goes into a third stage. Slabs beyond the first are whole: the first one takes what is
left over of K, so that the loop asks no thread whether its packet exists.

A *split* of K is one of several parts that different blocks work on, where blocks of whole sums
would not fill the GPU; :mod:`~llm_numba.kernels.gemm_split_k` adds them. With a *gate*, half of a
thread's columns come from the first half of W's rows, the others from the second, so that the
thread which has a gate has what it multiplies.

Sources: Kerr, Merrill, Demouth and Tran, "CUTLASS: Fast Linear Algebra in CUDA C++", 2017.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_config import WARP, Config
from llm_numba.kernels.gemm_pieces import QUAD, STORED, pitch_of, products, storing
from llm_numba.kernels.gemm_sources import aiming
from llm_numba.kernels.gemm_warp_tile import lane_place

STAGES = 3


def shared_bytes(config: Config, storage: str) -> int:
    """Return the dynamic shared memory that a block of the kernel takes.

    The finished sums pass through the same memory: 4 bytes for each column and thread.
    """
    row = pitch_of(storage, config.slab(storage)) * 16 // ptx.VECTOR[storage]
    tiles = STAGES * (config.rows + config.columns) * row
    return max(tiles, 4 * config.outputs.columns * config.threads)


@functools.cache
def pipelined(storage: str, config: Config, gated: bool, /) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    config : Config
        Its splits do not matter.
    gated : bool
        Whether W is [2F, K], and two of its rows make one column of C.
    """
    ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, PACKETS, *_ = config
    ACROSS, THREADS, outputs = config.warps_along_columns, config.threads, config.outputs
    WIDTH, FORM = ptx.VECTOR[storage], STORED[storage]
    SLAB = config.slab(storage)
    PITCH = pitch_of(storage, SLAB)
    TOGETHER = THREADS // PACKETS  # rows that all threads of a block copy at once
    A_LOADS, W_LOADS, STEP = ROWS // TOGETHER, COLUMNS // TOGETHER, TOGETHER * PITCH
    STAGE = (ROWS + COLUMNS) * PITCH
    LAST = SLAB - 2 * QUAD
    PER_ROW, PER_COLUMN = outputs.rows, outputs.columns
    SHARE = WARP_COLUMNS // 2 if gated else WARP_COLUMNS  # columns of C that a warp makes
    load_rows, multiply = products(storage, SLAB, outputs)
    aim, store = aiming(storage, config, gated), storing(outputs, THREADS, gated)

    @cuda.jit(device=True)
    def begin_w(tiles, at, w, w_from, w_at):
        """Begin to copy a thread's share of a slab of W."""
        for i in range(W_LOADS):
            ptx.cp_async16(tiles, at + i * STEP, w, w_from + w_at[i])

    @cuda.jit(device=True)
    def fetch_a(a, a_from, a_at, held):
        """Fetch a thread's share of a slab of A into registers."""
        for i in range(A_LOADS):
            words = ptx.load_raw16(a, a_from + a_at[i])
            for e in range(4):
                held[i, e] = words[e]

    @cuda.jit(device=True)
    def put_a(tiles, at, held):
        """Put it into shared memory."""
        for i in range(A_LOADS):
            words = held[i, 0], held[i, 1], held[i, 2], held[i, 3]
            ptx.store_raw16(tiles, at + i * STEP, words)

    @cuda.jit(device=True)
    def bring_first(tiles, a, a_from, a_at, to_a, w, w_from, w_at, to_w, held, inside):
        """Bring the first slab: zeros where a thread's packets lie beyond its end."""
        for i in range(A_LOADS):
            for e in range(4):
                held[i, e] = uint32(0)
        if inside:
            fetch_a(a, a_from, a_at, held)
        put_a(tiles, to_a, held)
        for i in range(W_LOADS):
            ptx.cp_async16_or_zeros(tiles, to_w + i * STEP, w, w_from + w_at[i], inside)
        ptx.cp_async_commit()

    @cuda.jit(launch_bounds=(THREADS, config.blocks))
    def gemm_pipelined(a, w, bias, residual, activation, span, c):
        """Make a tile of one of ``c [splits, M, N]``, of ``span`` numbers of K: whole slabs."""
        t = cuda.threadIdx.x
        down, across = t // WARP // ACROSS, t // WARP % ACROSS
        lane_row, lane_column = lane_place(t % WARP)
        first_row, first_column = cuda.blockIdx.x * ROWS, cuda.blockIdx.y * (ACROSS * SHARE)
        # One memory: the sums pass through it when the tiles are no longer needed.
        tiles, passing = cuda.shared.array(0, FORM), cuda.shared.array(0, float32)
        total = cuda.local.array((PER_ROW, PER_COLUMN), float32)
        a_part = cuda.local.array((PER_ROW, QUAD), float32)
        a_next = cuda.local.array((PER_ROW, QUAD), float32)
        a_at, w_at = cuda.local.array(A_LOADS, int32), cuda.local.array(W_LOADS, int32)
        held = cuda.local.array((A_LOADS, 4), uint32)
        for i in range(PER_ROW):
            for j in range(PER_COLUMN):
                total[i, j] = float32(0)

        place = t % PACKETS * WIDTH
        aim(a, w, first_row, first_column, a_at, w_at)
        to_a = t // PACKETS * PITCH + place
        to_w = to_a + ROWS * PITCH
        row = (down * WARP_ROWS + lane_row) * PITCH
        column = (ROWS + across * WARP_COLUMNS + lane_column) * PITCH
        start = cuda.blockIdx.z * span
        a_from, w_from = first_row * a.shape[1] + start, first_column * w.shape[1] + start
        # The first slab takes what is left over, so that all others are whole.
        length = max(0, min(a.shape[1] - start, span))
        head = (length - 1) % SLAB + 1
        inside = place < min(head, length)
        bring_first(tiles, a, a_from, a_at, to_a, w, w_from, w_at, to_w, held, inside)
        if head < length:
            fetch_a(a, a_from + head, a_at, held)
            begin_w(tiles, STAGE + to_w, w, w_from + head, w_at)
        ptx.cp_async_commit()
        here, following, oldest = 0, STAGE, 2 * STAGE
        ptx.cp_async_wait(1)
        cuda.syncthreads()
        load_rows(tiles, row, a_part)
        for k in range(head + SLAB, length + 2 * SLAB, SLAB):
            for s in range(0, LAST, 2 * QUAD):
                load_rows(tiles, here + row + s + QUAD, a_next)
                multiply(tiles, here + column + s, a_part, total, 0)
                load_rows(tiles, here + row + s + 2 * QUAD, a_part)
                multiply(tiles, here + column + s + QUAD, a_next, total, 0)
            load_rows(tiles, here + row + LAST + QUAD, a_next)
            multiply(tiles, here + column + LAST, a_part, total, 0)
            put_a(tiles, following + to_a, held)
            ptx.cp_async_wait(0)
            cuda.syncthreads()
            load_rows(tiles, following + row, a_part)
            if k < length:
                fetch_a(a, a_from + k, a_at, held)
                begin_w(tiles, oldest + to_w, w, w_from + k, w_at)
            ptx.cp_async_commit()
            multiply(tiles, here + column + LAST + QUAD, a_next, total, 0)
            here, following, oldest = following, oldest, here
        ptx.cp_async_wait(0)
        cuda.syncthreads()
        row, column = first_row + down * WARP_ROWS, first_column + across * SHARE
        row, column = row + lane_row, column + lane_column
        store(total, passing, t, row, column, bias, residual, activation, c[cuda.blockIdx.z])

    return gemm_pipelined
