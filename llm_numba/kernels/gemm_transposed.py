"""The step of the GEMM ladder that reads no bank of registers twice: tiles lie along M and N.

Registers with even numbers lie in one bank, those with odd numbers in another, and a bank gives a
multiply-add one number a cycle. It wants three: the sum, one of A and one of W. What the
multiply-add before it used in the same place can be kept at the unit and need not be read again.
So two numbers are read, and must differ in parity.

A load of 16 bytes fills four registers from a multiple of four on. Of a packet along K, numbers
with even k lie in even registers, those with odd k in odd ones. A sum meets them all in turn, and
is of the wrong parity every other time. If the tiles are *transposed*, a packet holds one k of four
rows, and the parity of a register says which row it is, for all k alike:

::

    tiles     | m0 m1 m2 m3 | m4 ..        | pad |  k = 0      a thread takes two packets of A and
              | m0 m1 m2 m3 | m4 ..        | pad |  k = 1      four of W for each k: 8 rows and 16
                     :                                         columns, one number of each
    register     0  1  2  3

    multiply-adds of one k, rows down and columns across:

         w0   w1   w2
    a0   |  +-+  | |        down one column and up the next: w0 is kept for 8 of them, and where
    a1   v  ^ v  ^ v        the column changes, a7 or a0 is
    ..   |  | |  | |
    a7   +--+ +--+ +

With w0 kept, a0 and its sum must differ in parity, a1 and its sum, and so on: the sums of even rows
live in odd registers, once and for all. The way back and forth spares the numbers of A where those
of W change. NVIDIA documents none of this; it shows in the code that ptxas writes, which marks what
is kept with ``.reuse``, and in the time.

So somebody has to transpose. A thread brings packets along K as ever, but through registers, and
stores their numbers one by one. A row of padding of four numbers brings the two packets of a row
into different halves of the banks. It is 12 stores for 1,024 multiply-adds in the largest tile.
Halves are widened on the way, once for all who read them. And a thread has to hold the numbers of
one k only, and those of the next which are on their way: 48 registers in place of 64 and more.

The pipeline is that of :mod:`~llm_numba.kernels.gemm_pipelined`, in steps of one k, and with two
stages: while the last k of a slab is multiplied nobody reads the slab any more.

*The end.* A lane's columns are four neighbours, and four more 16 further on. Finished rows of a
warp pass through shared memory, so that 32 lanes store 32 neighbours.

Sources: Jia, Maggioni, Staiger and Scarpazza, "Dissecting the NVIDIA Volta GPU Architecture via
Microbenchmarking", 2018, section 3.2 (two banks, reuse of operands); Gray, "maxas: SGEMM", 2014
(the way back and forth).
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_config import LANE_COLUMNS, LANE_ROWS, WARP, Config
from llm_numba.kernels.gemm_epilogue import finish, finish_gated
from llm_numba.kernels.gemm_sources import aiming
from llm_numba.kernels.gemm_warp_tile import lane_place
from llm_numba.kernels.unrolled import unrolled

SLAB = 8  # numbers along k that are in shared memory at once
QUAD = 4  # neighbours that a thread takes at once
_PAD = 4
_STAGES = 2
# Rows and columns that the quads of all lanes cover.
_ROWS_APART, _COLUMNS_APART = QUAD * LANE_ROWS, QUAD * LANE_COLUMNS


def fits(config: Config, storage: str) -> bool:
    """Tell whether the kernel can be made for a cut: whole quads of outputs, and slabs of 8.

    Parameters
    ----------
    config : Config
    storage : str
    """
    quads = config.warp_rows % _ROWS_APART == 0 and config.warp_columns % _COLUMNS_APART == 0
    return quads and config.slab(storage) == SLAB and config.is_whole


def shared_bytes(config: Config) -> int:
    """Return the dynamic shared memory that a block of the kernel takes.

    Rows of finished sums pass through the same memory.

    Parameters
    ----------
    config : Config
    """
    tiles = _STAGES * SLAB * (config.rows + config.columns + 2 * _PAD)
    return 4 * max(tiles, config.threads // WARP * LANE_ROWS * (config.warp_columns + 1))


@functools.cache
def multiplying(rows: int, columns: int, a_pitch: int, w_pitch: int) -> tuple[Any, Any, Any]:
    """Make the device functions that read tiles and multiply.

    Parameters
    ----------
    rows, columns : int
        Of a thread's outputs.
    a_pitch, w_pitch : int
        Numbers from k to k of a tile.

    Returns
    -------
    load : device function
        ``load(tiles, a_at, w_at, a_part, w_part)`` takes a thread's numbers of one k.
    multiply : device function
        ``multiply(a_part, w_part, total)``
    two : device function
        Multiplies two k, and loads the two after them; for :func:`unrolled`.
    """

    @cuda.jit(device=True, forceinline=True)
    def load(tiles, a_at, w_at, a_part, w_part):
        """Take a thread's numbers of one k."""
        for i in range(0, rows, QUAD):
            quad = ptx.load_quad(tiles, a_at + i * LANE_ROWS)
            for e in range(QUAD):
                a_part[i + e] = quad[e]
        for j in range(0, columns, QUAD):
            quad = ptx.load_quad(tiles, w_at + j * LANE_COLUMNS)
            for e in range(QUAD):
                w_part[j + e] = quad[e]

    @cuda.jit(device=True, forceinline=True)
    def multiply(a_part, w_part, total):
        """Multiply down one column and up the next."""
        for j in range(columns):
            for step in range(rows):
                i = rows - 1 - step if j & 1 else step
                total[i, j] += a_part[i] * w_part[j]

    @cuda.jit(device=True, forceinline=True)
    def two(tiles, a_at, w_at, k, a_part, w_part, a_next, w_next, total):
        """Multiply numbers k and k + 1 of a slab, which leaves the one after them loaded."""
        load(tiles, a_at + (k + 1) * a_pitch, w_at + (k + 1) * w_pitch, a_next, w_next)
        multiply(a_part, w_part, total)
        load(tiles, a_at + (k + 2) * a_pitch, w_at + (k + 2) * w_pitch, a_part, w_part)
        multiply(a_next, w_next, total)

    return load, multiply, two


@functools.cache
def storing_rows(config: Config, gated: bool) -> Any:
    """Make the device function that finishes a warp's outputs and stores them.

    Parameters
    ----------
    config : Config
    gated : bool
        Whether the first half of a warp's columns are gates, and the other half what they multiply.

    Returns
    -------
    device function
        ``store(total, passing, row, column, bias, residual, activation, c)`` with the first row and
        column of C that are the warp's, and float32 ``passing`` in shared memory.
    """
    ROWS, COLUMNS = config.outputs[:2]
    PITCH = config.warp_columns + 1
    SHARE = config.warp_columns // 2 if gated else config.warp_columns

    @cuda.jit(device=True, forceinline=True)
    def store_one(i, operands):
        """Finish row i of each lane."""
        total, passing, row, column, bias, residual, activation, c = operands
        lane, first = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP * LANE_ROWS * PITCH
        lane_row, lane_column = lane_place(lane)
        own = first + lane_row * PITCH + lane_column * QUAD
        for j in range(COLUMNS):
            passing[own + j // QUAD * _COLUMNS_APART + j % QUAD] = total[i, j]
        cuda.syncwarp()
        top = row + i // QUAD * _ROWS_APART + i % QUAD
        for place in range(lane, LANE_ROWS * SHARE, WARP):
            m, n = top + place // SHARE * QUAD, column + place % SHARE
            at = first + place // SHARE * PITCH + place % SHARE
            if m < c.shape[0] and n < c.shape[1]:
                if gated:
                    value = finish_gated(passing[at], passing[at + SHARE], m, n, bias, residual)
                else:
                    value = finish(passing[at], m, n, bias, residual, activation)
                c[m, n] = ptx.from_float(c, value)
        cuda.syncwarp()

    return unrolled(ROWS, store_one)


@functools.cache
def bringing(storage: str, config: Config) -> tuple[Any, Any]:
    """Make the device functions that bring a slab: from memory to registers, and on to the tiles.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    config : Config

    Returns
    -------
    fetch : device function
        ``fetch(a, a_from, a_at, w, w_from, w_at, held)`` fetches a thread's packets, as they are.
    put : device function
        ``put(tiles, to_a, to_w, a, held)`` widens their numbers and stores them transposed.
    """
    WIDTH, TOGETHER = ptx.VECTOR[storage], config.threads // config.packets
    A_LOADS, W_LOADS = config.rows // TOGETHER, config.columns // TOGETHER
    A_PITCH, W_PITCH = config.rows + _PAD, config.columns + _PAD

    @cuda.jit(device=True, forceinline=True)
    def fetch(a, a_from, a_at, w, w_from, w_at, held):
        """Fetch a thread's packets of a slab."""
        for i in range(A_LOADS):
            words = ptx.load_raw16(a, a_from + a_at[i])
            for e in range(4):
                held[i, e] = words[e]
        for i in range(W_LOADS):
            words = ptx.load_raw16(w, w_from + w_at[i])
            for e in range(4):
                held[A_LOADS + i, e] = words[e]

    @cuda.jit(device=True, forceinline=True)
    def put(tiles, to_a, to_w, a, held):
        """Store their numbers; an index without a sign is not asked whether it is negative."""
        for i in range(A_LOADS + W_LOADS):
            words = held[i, 0], held[i, 1], held[i, 2], held[i, 3]
            values = ptx.widen_raw16(a, words)
            to = to_a + i * TOGETHER if i < A_LOADS else to_w + (i - A_LOADS) * TOGETHER
            pitch = A_PITCH if i < A_LOADS else W_PITCH
            for e in range(WIDTH):
                tiles[uint64(to + e * pitch)] = values[e]

    return fetch, put


@functools.cache
def transposed(storage: str, config: Config, gated: bool, /) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    config : Config
        One that :func:`fits`; its splits do not matter.
    gated : bool
        Whether W is [2F, K], and two of its rows make one column of C.
    """
    ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, PACKETS, *_ = config
    ACROSS, THREADS = config.warps_along_columns, config.threads
    WIDTH, PER_ROW, PER_COLUMN = ptx.VECTOR[storage], *config.outputs[:2]
    LOADS = (ROWS + COLUMNS) * PACKETS // THREADS
    A_LOADS, W_LOADS = ROWS * PACKETS // THREADS, COLUMNS * PACKETS // THREADS
    A_PITCH, W_PITCH = ROWS + _PAD, COLUMNS + _PAD
    TILE_OF_A, STAGE = SLAB * A_PITCH, SLAB * (A_PITCH + W_PITCH)
    LAST = SLAB - 1
    SHARE = WARP_COLUMNS // 2 if gated else WARP_COLUMNS  # columns of C that a warp makes
    aim, (fetch, put) = aiming(storage, config, gated), bringing(storage, config)
    load, multiply, two = multiplying(PER_ROW, PER_COLUMN, A_PITCH, W_PITCH)
    store = storing_rows(config, gated)

    @cuda.jit(launch_bounds=(THREADS, config.blocks))
    def gemm_transposed(a, w, bias, residual, activation, span, c):
        """Make a tile of one of ``c [splits, M, N]``, of ``span`` numbers of K: whole slabs."""
        t = cuda.threadIdx.x
        down, across = t // WARP // ACROSS, t // WARP % ACROSS
        lane_row, lane_column = lane_place(t % WARP)
        first_row, first_column = cuda.blockIdx.x * ROWS, cuda.blockIdx.y * (ACROSS * SHARE)
        tiles = cuda.shared.array(0, float32)
        total = cuda.local.array((PER_ROW, PER_COLUMN), float32)
        a_part, a_next = cuda.local.array(PER_ROW, float32), cuda.local.array(PER_ROW, float32)
        w_part, w_next = (
            cuda.local.array(PER_COLUMN, float32),
            cuda.local.array(PER_COLUMN, float32),
        )
        a_at, w_at = cuda.local.array(A_LOADS, int32), cuda.local.array(W_LOADS, int32)
        held = cuda.local.array((LOADS, 4), uint32)
        for i in range(PER_ROW):
            for j in range(PER_COLUMN):
                total[i, j] = float32(0)
        for i in range(LOADS):
            for e in range(4):
                held[i, e] = uint32(0)

        aim(a, w, first_row, first_column, a_at, w_at)
        place = t % PACKETS * WIDTH
        to_a = place * A_PITCH + t // PACKETS
        to_w = TILE_OF_A + place * W_PITCH + t // PACKETS
        row = down * WARP_ROWS + lane_row * QUAD
        column = TILE_OF_A + across * WARP_COLUMNS + lane_column * QUAD
        start = cuda.blockIdx.z * span
        a_from, w_from = first_row * a.shape[1] + start, first_column * w.shape[1] + start
        # The first slab takes what is left over, so that all others are whole.
        length = max(0, min(a.shape[1] - start, span))
        head = (length - 1) % SLAB + 1
        if place < min(head, length):
            fetch(a, a_from, a_at, w, w_from, w_at, held)
        put(tiles, to_a, to_w, a, held)
        if head < length:
            fetch(a, a_from + head, a_at, w, w_from + head, w_at, held)
        here, other = 0, STAGE
        cuda.syncthreads()
        load(tiles, row, column, a_part, w_part)
        for k in range(head + SLAB, length + 2 * SLAB, SLAB):
            at_a, at_w = here + row, here + column
            two(tiles, at_a, at_w, 0, a_part, w_part, a_next, w_next, total)
            two(tiles, at_a, at_w, 2, a_part, w_part, a_next, w_next, total)
            two(tiles, at_a, at_w, 4, a_part, w_part, a_next, w_next, total)
            load(tiles, at_a + LAST * A_PITCH, at_w + LAST * W_PITCH, a_next, w_next)
            multiply(a_part, w_part, total)
            put(tiles, other + to_a, other + to_w, a, held)
            cuda.syncthreads()
            load(tiles, other + row, other + column, a_part, w_part)
            if k < length:
                fetch(a, a_from + k, a_at, w, w_from + k, w_at, held)
            multiply(a_next, w_next, total)
            here, other = other, here
        cuda.syncthreads()
        row, column = first_row + down * WARP_ROWS, first_column + across * SHARE
        out = c[cuda.blockIdx.z]
        store(0, (total, tiles, row, column, bias, residual, activation, out))

    return gemm_transposed
