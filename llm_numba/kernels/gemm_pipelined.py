"""Two steps of the GEMM ladder: nothing waits at the moment that it is needed, and no bank twice.

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

*Banks of registers* are the idea of ``register_banks``.

Registers with even numbers lie in one bank, those with odd numbers in another, and a bank gives a
multiply-add one number a cycle. It wants three: the sum, one of A and one of W. That of W is kept
at the unit from one multiply-add to the next. The other two must differ in parity. But a load of 16
bytes fills four registers from a multiple of four on, so that k 0 and 2 are even in all rows of A,
and 1 and 3 odd. A sum takes part in all of them, and so is of the wrong parity half of the time. So
the packets of every other of a thread's rows are stored as 1 0 3 2:

::

    register of the quad    0   1   2   3
    even rows of a thread   k0  k1  k2  k3      for one k, rows alternate between the banks,
    odd rows                k1  k0  k3  k2      and so do their sums, once and for all

Nothing is computed in another order. It costs nothing either: A comes through registers, where to
swap two words is to name them differently. In 16 bits it is not needed, because numbers are
widened into registers of the compiler's choice. NVIDIA documents none of this. It shows in what
ptxas does of its own accord, which moves sums between registers to change their parity, and in the
time.

A *split* of K is one of several parts that different blocks work on, where blocks of whole sums
would not fill the GPU; :mod:`~llm_numba.kernels.gemm_split_k` adds them. With a *gate*, half of a
thread's columns come from the first half of W's rows, the others from the second, so that the
thread which has a gate has what it multiplies.

Source: Jia, Maggioni, Staiger and Scarpazza, "Dissecting the NVIDIA Volta GPU Architecture via
Microbenchmarking", 2018, section 3.2 (two banks, reuse of operands).
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_config import WARP, Config
from llm_numba.kernels.gemm_pieces import QUAD, STORED, pitch_of, products, storing
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
def pipelined(storage: str, config: Config, gated: bool, banks: bool, /) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    config : Config
        Its splits do not matter.
    gated : bool
        Whether W is [2F, K], and two of its rows make one column of C.
    banks : bool
        Whether every other row of A is stored with its numbers swapped; for float32.
    """
    ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, PACKETS, *_ = config
    ACROSS, THREADS, outputs = config.warps_along_columns, config.threads, config.outputs
    WIDTH, FORM = ptx.VECTOR[storage], STORED[storage]
    SLAB = config.slab(storage)
    PITCH = pitch_of(storage, SLAB)
    TOGETHER = THREADS // PACKETS  # rows that all threads of a block copy at once
    A_LOADS, W_LOADS, STEP = ROWS // TOGETHER, COLUMNS // TOGETHER, TOGETHER * PITCH
    STAGE = (ROWS + COLUMNS) * PITCH
    SWAP = int(banks and A_LOADS % 2 == 0)
    LAST = SLAB - 2 * QUAD
    PER_ROW, PER_COLUMN = outputs.rows, outputs.columns
    SHARE = WARP_COLUMNS // 2 if gated else WARP_COLUMNS  # columns of C that a warp makes
    load_rows, multiply = products(storage, SLAB, outputs, bool(SWAP))
    store = storing(outputs, THREADS, gated)

    @cuda.jit(device=True)
    def source_row(row, first, rows):
        """Return the row of W that a row of its tile holds; beyond the last, the last."""
        if not gated:
            return min(first + row, rows - 1)
        column = first + row // WARP_COLUMNS * SHARE + row % SHARE
        return min(column, rows // 2 - 1) + row // SHARE % 2 * (rows // 2)

    @cuda.jit(device=True)
    def below(i):
        """Return how many rows of A's tile a thread's packet i lies below its first."""
        # Packets with an odd i go to rows that are a thread's odd ones when it multiplies.
        return 8 * (i % 2) + 2 * TOGETHER * (i // 2) if SWAP else TOGETHER * i

    @cuda.jit(device=True)
    def aim(a, w, first_row, first_column, top, a_at, w_at):
        """Find where a thread's packets begin: in 32 bits, relative to the block's first row."""
        t = cuda.threadIdx.x
        place = t % PACKETS * WIDTH
        for i in range(A_LOADS):
            row = min(top + below(i), a.shape[0] - 1 - first_row)
            a_at[i] = int32(row * a.shape[1] + place)
        for i in range(W_LOADS):
            row = source_row(t // PACKETS + i * TOGETHER, first_column, w.shape[0]) - first_column
            w_at[i] = int32(row * w.shape[1] + place)

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
            o = SWAP * (i % 2)
            words = held[i, o], held[i, 1 - o], held[i, 2 + o], held[i, 3 - o]
            ptx.store_raw16(tiles, at + below(i) * PITCH, words)

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
        top = t // PACKETS % 8 + 16 * (t // PACKETS // 8) if SWAP else t // PACKETS
        aim(a, w, first_row, first_column, top, a_at, w_at)
        to_a, to_w = top * PITCH + place, (ROWS + t // PACKETS) * PITCH + place
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
