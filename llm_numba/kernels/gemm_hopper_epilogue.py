r"""Epilogues of the Hopper product: bias, activation, gate and residual, while C is in registers.

.. math:: C = \mathrm{act}(A W^T + b) + R \qquad\text{or}\qquad
          C = \mathrm{SiLU}(A W_g^T + b_g) \odot (A W_u^T + b_u) + R

A kernel of its own would read C and write it again: of 4096 x 14336 numbers 235 MB, 80 us of an
H100's memory, where the product takes 700 for K = 4096. Here only what is new is read. Each
epilogue is composed when the kernel is made, of the device functions that all products share: what
is not asked for is not in the code.

*What is read comes before it is needed.* A thread has two neighbours of two rows in each eight
columns. Were the bias of these columns read there, 32 loads would stand one behind the other, each
some hundred cycles behind the last store. So all that 64 columns need, or more where registers are
left, is read at once and waits there::

    64 columns          | read biases, residual | finish and put 8 columns | 8 | 8 | ... | box |

And what is read has come as far as L2 by then: each thread names some lines of the residual when
the products of a tile begin, which are tens of thousands of cycles. Where there is no activation,
the producer brings it, as the last slabs of its tile
(:mod:`~llm_numba.kernels.gemm_hopper_residual`).

*A gate* and what it lets through must meet in one thread, and lie F rows apart in W. So half of a
tile's rows of W are the gate's and half the other factor's, by two boxes of the copy engine. Each
thread then has both, and W stays as checkpoints store it and as all other kernels read it::

    W [2F, K]                       a stage                 the sums of a thread
    row f      +---------+          +-----+------+------+   | 64 of gate | 64 of up |
               | gate    | -- 128   | A   | gate | up   |          |          |
    row F + f  +---------+          +-----+------+------+          '--> SiLU(.) * (.)
               | up      | -- 128
               +---------+

Sources: NVIDIA, "CUTLASS 3" (epilogue fusion); Shazeer, "GLU Variants Improve Transformer", 2020.
"""

import functools
from typing import Any

from numba import cuda, int32

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import ACTIVATIONS, activate, gelu_of_halves, silu_mul
from llm_numba.kernels.gemm_hopper_pieces import (
    GROUP_ROWS,
    GROUP_THREADS,
    Ending,
    Finishing,
    Tile,
    nothing,
    storing,
)
from llm_numba.kernels.gemm_hopper_residual import bringing
from llm_numba.kernels.gemm_hopper_residual import reading as reading_slabs
from llm_numba.kernels.gemm_hopper_stored import storing_by_engine
from llm_numba.kernels.unrolled import unrolled

GATED = "silu_mul"
_LINE = 64  # numbers of 128 bytes
_ROOM = 64  # numbers that a thread can keep beside 128 sums


@functools.cache
def epilogue(
    activation: str | None, biased: bool, added: bool, by_engine: bool, brought: bool = False
) -> Ending:
    """Make the ending of an epilogue.

    Parameters
    ----------
    activation : {None, "gelu", "gelu_tanh", "silu", "silu_mul"}
    biased : bool
        Whether there is a bias, of N or 2F numbers.
    added : bool
        Whether a residual lies beside C, of the dtype of C.
    by_engine : bool
        Whether the copy engine stores C, whose rows are then multiples of 16 bytes; else threads
        do, and ask of each number whether it is there.
    brought : bool
        Whether the copy engine brings the residual, whose map then lies beside C.
    """
    gated = activation == GATED

    def make(storage: str, tile: Tile) -> tuple[Any, Any]:
        columns = tile.columns // 2 if gated else tile.columns
        beside = reading_slabs(storage, tile, columns) if brought else None
        finish = finishing(activation, biased, added, by_engine, tile.columns // 4, beside=beside)
        if by_engine:
            return storing_by_engine(storage, tile, columns, finish)
        return storing(columns, finish), nothing

    if brought:
        return Ending(make, gated, behind=lambda tile: bringing(tile, tile.columns // (1 + gated)))
    foreseeing = functools.partial(_foreseeing, gated) if added and by_engine else None
    return Ending(make, gated, foreseeing=foreseeing)


def _foreseeing(gated: bool, tile: Tile) -> Any:
    """Make what has a warpgroup's share of the residual brought into L2."""
    LINES = -(-tile.columns // (2 * _LINE if gated else _LINE))
    TURNS = -(-GROUP_ROWS * LINES // GROUP_THREADS)

    @cuda.jit(device=True)
    def foresee(first_row, first_column, c, beside):
        """Name a number of each line."""
        for turn in range(TURNS):
            n = cuda.threadIdx.x % GROUP_THREADS + turn * GROUP_THREADS
            row, column = first_row + n // LINES, first_column + n % LINES * _LINE
            if n < GROUP_ROWS * LINES and row < c.shape[0] and column < c.shape[1]:
                ptx.prefetch(beside, row * c.shape[1] + column)

    return foresee


def _eights(each: int, up_begins: int, room: int) -> int:
    """Return for how many eight columns there is room beside the sums, each so many numbers."""
    return next((n for n in (32, 16) if n * each <= room and n * 8 <= 4 * up_begins), 8)


@functools.cache
def finishing(
    activation: str | None,
    biased: bool,
    added: bool,
    in_pairs: bool,
    up_begins: int,
    room: int = _ROOM,
    beside: Any = None,
) -> Finishing:
    """Make what reads the operands of an epilogue, and what computes it.

    Parameters
    ----------
    activation, biased, added
        As of :func:`epilogue`.
    in_pairs : bool
        Whether neighbours of bias and residual lie in one word. The result has then 16 bits or 8.
    up_begins : int
        Of a thread's sums, with a gate, the first that a gate lets through.
    room : int
        Numbers that a thread can keep beside its sums.
    beside : tuple of device functions, optional
        What begins to read a residual, what reads two neighbours, and what ends it.
    """
    GATES, NUMBER = activation == GATED, ACTIVATIONS.get(activation, 0)
    # What is stored in pairs is rounded to 16 bits or to 8, and then GELU need not be finer.
    HALVES = in_pairs and activation == "gelu"
    # What is kept for eight columns: biases, those of up, two of each row of the residual.
    RESIDUAL = 0 if not biased else 4 if GATES else 2
    EACH = RESIDUAL + (4 if added else 0)
    # One by one, numbers need registers for their places, too.
    EIGHTS = _eights(EACH, up_begins, room) if in_pairs else 1
    read_bias = _reading_bias(in_pairs)
    begin_beside, read_beside, end_beside = beside or _reading_memory(in_pairs)

    @cuda.jit(device=True, forceinline=True)
    def bring_eight(e, operands):
        """Read what finishes a thread's sums of eight columns."""
        kept, i, row, column, c, bias, beside = operands
        # In 32 bits the smaller of two is one instruction, in 64 it is four.
        N, n = int32(c.shape[1]), int32(column + 8 * e)
        if biased:
            # Columns beyond the last are not stored, but their bias must not be looked for.
            kept[EACH * e], kept[EACH * e + 1] = read_bias(bias, n, int32(0), N)
            if GATES:
                kept[EACH * e + 2], kept[EACH * e + 3] = read_bias(bias, n, N, N)
        if added:
            for h in range(2):
                at = EACH * e + RESIDUAL + 2 * h
                kept[at], kept[at + 1] = read_beside(beside, i + e, h, row, n)

    bring_all = unrolled(EIGHTS, bring_eight)

    @cuda.jit(device=True, forceinline=True)
    def bring(kept, i, row, column, c, bias, beside):
        """Read what finishes a thread's sums of the next eights of columns."""
        if added:
            begin_beside(beside, i)
        bring_all(0, (kept, i, row, column, c, bias, beside))
        if added:
            end_beside(beside, i + EIGHTS)

    @cuda.jit(device=True, forceinline=True)
    def pair(acc, i, h, kept):
        """Finish two neighbours."""
        at, of = 4 * i + 2 * h, EACH * (i % EIGHTS)
        low, high = acc[at], acc[at + 1]
        if biased:
            low, high = low + kept[of], high + kept[of + 1]
        if GATES:
            low_up, high_up = acc[up_begins + at], acc[up_begins + at + 1]
            if biased:
                low_up, high_up = low_up + kept[of + 2], high_up + kept[of + 3]
            low, high = silu_mul(low, low_up), silu_mul(high, high_up)
        elif HALVES:
            low, high = gelu_of_halves(low), gelu_of_halves(high)
        else:
            low, high = activate(low, NUMBER), activate(high, NUMBER)
        if added:
            of += RESIDUAL + 2 * h
            low, high = low + kept[of], high + kept[of + 1]
        return low, high

    return Finishing(EIGHTS, max(1, EIGHTS * EACH), bring, pair)


@functools.cache
def _reading_bias(in_pairs: bool) -> Any:
    """Make what reads two neighbours of the bias.

    Of what lies outside anything may be read that is there.
    """

    @cuda.jit(device=True, forceinline=True)
    def read_bias(bias, column, begins, N):
        """Read the numbers of a column and of the next, of N that begin somewhere."""
        if in_pairs:
            # N is even, and so is a thread's column.
            return ptx.load_pair(bias, begins + min(column, int32(N - 2)))
        last = int32(N - 1)
        low, high = min(column, last), min(int32(column + 1), last)
        return ptx.to_float(bias[begins + low]), ptx.to_float(bias[begins + high])

    return read_bias


@functools.cache
def _reading_memory(in_pairs: bool) -> tuple[Any, Any, Any]:
    """Make what reads two neighbours of a residual where it lies; outside it, what is there."""

    @cuda.jit(device=True, forceinline=True)
    def read_beside(beside, i, h, row, column):
        """Read the numbers of the thread's upper row or of its lower."""
        M, N = beside.shape
        row = min(row + 8 * h, M - 1)
        if in_pairs:
            return ptx.load_pair(beside, row * N + min(column, N - 2))
        low, high = min(column, N - 1), min(column + 1, N - 1)
        return ptx.to_float(beside[row, low]), ptx.to_float(beside[row, high])

    return _pass, read_beside, _pass


@cuda.jit(device=True)
def _pass(beside, i):
    """Wait for nothing: a residual in memory is there."""
