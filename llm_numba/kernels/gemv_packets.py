r"""The fast steps of the GEMV ladder: packets of 16 bytes, and many of them under way.

By Little's law the bytes under way must be the latency of the memory times its bandwidth: on large
GPUs some 10 KiB and more for each SM, at any time. A warp that loads a packet a lane and waits for
it has 512 bytes under way. So each lane loads several packets, of several rows of weights, before
it uses the first. A packet of x, once loaded, serves all these rows.

And several warps share the rows, each with a part of every stretch of K. Here four warps, each
lane with 2 packets of 4 rows: 8 loads of 16 bytes, before the first is used:

::

    packets of a row     |  0 .. 31  | 32 .. 63  | 64 .. 95  | 96 .. 127 |128 .. 159 | ...
    warp                    warp 0      warp 1      warp 2      warp 3      warp 0

    a lane of warp 0     packet p                              packet p + 128
    row n                16 bytes of W                         16 bytes of W
    row n + 1            16 bytes of W                         16 bytes of W
    row n + 2            16 bytes of W                         16 bytes of W
    row n + 3            16 bytes of W                         16 bytes of W
    x                    16 bytes, for all four                16 bytes, for all four

What is read at one time lies together, and a matrix of few rows still has work for all SMs. At
the end the warps' sums meet in shared memory and are added in the order of the warps. How many
warps share a row depends on N and K, and never on M: a row of x has the same result, to the bit,
whatever other rows are in the batch.

M, the rows of x, is known when a kernel is compiled: 1, 2, 4 or 8. Where there are fewer rows, the
last one is computed several times, and stored once.
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, float32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.exchange import exchange
from llm_numba.kernels.gemv_epilogue import add_and_store, inverse_rms, store_output
from llm_numba.kernels.reduce import WARP, warp_sum
from llm_numba.kernels.unrolled import unrolled
from llm_numba.runtime import starts_early

WARPS = 8  # of a block, where each has rows of its own

# Threads of an SM that there shall be registers for, by the rows of x that are summed in them.
RESIDENT = {1: 1024, 2: 768, 4: 512, 8: 512}


class Config(NamedTuple):
    """What a lane of :func:`split_kernel` has under way.

    Attributes
    ----------
    rows : int
        Of weights; with a gate, half of them are the gate's.
    packets : int
        Of each row.
    """

    rows: int
    packets: int


@functools.cache
def multiply_packet(M: int, rows: int, normed: bool) -> Any:
    """Make the device function that multiplies a packet of x by those of several rows of weights.

    Parameters
    ----------
    M : int
        Rows of x.
    rows : int
        Of weights.
    normed : bool

    Returns
    -------
    device function
        Takes the number of a packet of x, row by row and then along K, and the operands that a
        kernel below passes.
    """

    @cuda.jit(device=True, forceinline=True)
    def multiply(i, operands):
        """Multiply packet i // M of the rows of weights by that of row i % M of x."""
        x, norm_weight, held, column, step, total, square = operands
        width = ptx.items16(x)
        p, m = i // M, i % M
        column += p * step
        values = ptx.load16(x, min(m, x.shape[0] - 1) * x.shape[1] + column)
        if normed:
            scales = ptx.load16(norm_weight, column)
            for e in range(width):
                square[m] += values[e] * values[e]
                values = ptx.with_item(values, e, values[e] * scales[e])
        for r in range(rows):
            for e in range(width):
                total[r * M + m] += held[p, r, e] * values[e]

    return multiply


@functools.cache
def load_packet(rows: int, early: bool = False) -> Any:
    """Make the device function that loads a packet of one of several rows of weights.

    Parameters
    ----------
    rows : int
    early : bool
        Whether the compiler must leave loads before a wait where they are.

    Returns
    -------
    device function
        Takes the number of a packet, row by row and then along K, and the operands that a kernel
        below passes.
    """

    @cuda.jit(device=True, forceinline=True)
    def load(i, operands):
        """Load packet i // rows of row i % rows."""
        weight, begin, held, column, step = operands
        p, r = i // rows, i % rows
        at = begin[r] + column + p * step
        values = ptx.load16(weight, at) if early else ptx.load16_stream(weight, at)
        for e in range(ptx.items16(weight)):
            held[p, r, e] = values[e]

    return load


@functools.cache
def vectorised_kernel(M: int, gated: bool, normed: bool) -> Any:
    """Make the kernel of the third step.

    Parameters
    ----------
    M : int
        Rows of x, at least as many as there are; the last one stands for those beyond.
    gated, normed : bool
        Whether there is a gate, and whether there is a norm.

    Returns
    -------
    kernel
    """
    rows = 2 if gated else 1
    COUNT = rows * M
    load, multiply = (
        unrolled(rows, load_packet(rows)),
        unrolled(M, multiply_packet(M, rows, normed)),
    )

    @cuda.jit
    def gemv_vectorised(x, weight, bias, residual, norm_weight, eps, activation, out):
        """Load 16 bytes at a time: a fourth of the requests for float32, an eighth for halves."""
        output = cuda.blockIdx.x * WARPS + cuda.threadIdx.y
        if output >= out.shape[1]:
            return
        held = cuda.local.array((1, rows, 8), float32)
        total = cuda.local.array(COUNT, float32)
        square = cuda.local.array(M, float32)
        begin = cuda.local.array(rows, int64)
        lane, columns, width = cuda.threadIdx.x, weight.shape[1], ptx.items16(weight)
        for r in range(rows):
            begin[r] = (output + r * out.shape[1]) * columns
        for m in range(M):
            square[m] = float32(0)
            for r in range(rows):
                total[r * M + m] = float32(0)
        for column in range(lane * width, columns, WARP * width):
            load(0, (weight, begin, held, column, 0))
            multiply(0, (x, norm_weight, held, column, 0, total, square))
        of_row, of_up, squares = float32(0), float32(0), float32(0)
        for m in range(M):
            sums = warp_sum(total[m]), warp_sum(total[COUNT - M + m]), warp_sum(square[m])
            if lane == m:
                of_row, of_up, squares = sums
        if lane < out.shape[0]:
            factor = inverse_rms(squares, columns, eps) if normed else float32(1)
            of_row, of_up = of_row * factor, of_up * factor
            store_output(of_row, of_up, gated, lane, output, bias, residual, activation, out)

    return gemv_vectorised


@functools.cache
def split_kernel(
    M: int, config: Config, warps: int, gated: bool, normed: bool, early: bool, /
) -> Any:
    """Make the kernel of the last two steps.

    Parameters
    ----------
    M : int
        Rows of x, or the next power of two.
    config : Config
    warps : int
        That share a row: a power of two.
    gated, normed : bool
        Whether there is a gate, and whether there is a norm.
    early : bool
        Whether the kernel may begin before the one before it, which makes x, has ended. It has its
        first weights on their way then: they are constant.

    Returns
    -------
    kernel
    """
    rows, packets = config
    OUTPUTS = rows // 2 if gated else rows
    COUNT, THREADS = rows * M, WARP * warps
    add_totals, add_squares = exchange(COUNT, WARP), exchange(M, WARP)
    load_one, multiply_one = load_packet(rows, early), multiply_packet(M, rows, normed)
    load_next, multiply_next = unrolled(rows, load_one), unrolled(M, multiply_one)
    load_all = unrolled(packets * rows, load_one)
    finish = add_and_store(warps, OUTPUTS, gated, normed)

    @cuda.jit(device=True, forceinline=True)
    def multiply_those(p, operands):
        """Multiply packet p of all rows, once it is there: no load moves past a barrier."""
        cuda.syncwarp()
        multiply_next(p * M, operands)

    multiply_all = unrolled(packets, multiply_those)

    @cuda.jit(launch_bounds=(THREADS, max(1, RESIDENT[M] // THREADS)))
    def gemv_split(x, weight, bias, residual, norm_weight, eps, activation, out):
        """Load packets of all rows of the tile, and only then multiply.

        The compiler would rather load one packet after the other, to save registers. It moves no
        load past a barrier, not even past one of a single warp, which is one instruction.
        """
        held = cuda.local.array((packets, rows, 8), float32)
        total = cuda.local.array(COUNT, float32)
        square = cuda.local.array(M, float32)
        begin = cuda.local.array(rows, int64)
        partial = cuda.shared.array((warps, rows, M), float32)
        squares = cuda.shared.array((warps, M), float32)
        lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
        columns, outputs = weight.shape[1], out.shape[1]
        thread = warp * WARP + lane
        first, step = thread * ptx.items16(weight), THREADS * ptx.items16(weight)
        for r in range(rows):
            row = min(cuda.blockIdx.x * OUTPUTS + r % OUTPUTS, outputs - 1)
            begin[r] = (row + outputs if r >= OUTPUTS else row) * columns
        for i in range(COUNT):
            total[i] = float32(0)
        for m in range(M):
            square[m] = float32(0)

        whole = columns // (packets * step) * packets * step
        for start in range(0, whole, packets * step):
            load_all(0, (weight, begin, held, start + first, step))
            if early and start == 0:
                # When all blocks have come here, the next kernel's take the places that are free.
                ptx.release_next_kernel()
                ptx.await_previous_kernel()
            multiply_all(0, (x, norm_weight, held, start + first, step, total, square))
        if early and whole == 0:
            ptx.release_next_kernel()
            ptx.await_previous_kernel()
        for start in range(whole, columns, step):
            if start + first < columns:
                load_next(0, (weight, begin, held, start + first, step))
                multiply_next(0, (x, norm_weight, held, start + first, step, total, square))

        add_totals(total, lane)
        if lane % (WARP // COUNT) == 0:
            i = lane * COUNT // WARP
            partial[warp, i // M, i % M] = total[0]
        if normed:
            add_squares(square, lane)
            if lane % (WARP // M) == 0:
                squares[warp, lane * M // WARP] = square[0]
        cuda.syncthreads()
        finish(partial, squares, columns, eps, bias, residual, activation, out)

    return starts_early(gemv_split) if early else gemv_split
