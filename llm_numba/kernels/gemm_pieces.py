"""What the faster GEMM kernels share: how a thread gets its numbers, multiplies and stores.

Both operands lie along K, in memory and in shared memory:

::

    tiles    k = 0 .. SLAB-1, padded            of a packet of 16 bytes
             | p0 | p1 | p2 | p3 | pad |  row 0 of A's tile
             | p0 | p1 | p2 | p3 | pad |  row 1           a thread takes a packet of each of its
                  :                                       rows of A, and keeps them; then a packet
             | p0 | p1 | p2 | p3 | pad |  row 0 of W's    of one row of W after the other, and
                  :                                       multiplies it by all of them

So a packet comes from global memory and goes to the registers as it is: nobody transposes. Four
numbers of a row are wanted together, for four steps along k. A packet of padding brings the packets
of 8 rows into 8 different groups of 4 banks.

*Unrolling.* Sums are registers only if each index into them is known to the compiler. NVVM unrolls
loops of constant length up to a size, and that of these products is several times larger: the rest
would stay a loop, and the sums go to local memory. A function that calls another one twice is no
loop, and always unrolled: see :func:`_twice`.
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, float32, types

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_epilogue import finish, finish_gated

# What a kernel sees of each storage format.
STORED = {"float32": types.float32, "float16": types.float16, "bfloat16": types.uint16}

QUAD = 4  # numbers along k that a thread takes of a row at once
# Multiply-adds that NVVM unrolls as one loop nest.
_UNROLLED = 256


class Outputs(NamedTuple):
    """Which outputs of a block's tile a thread makes.

    Attributes
    ----------
    rows, columns : int
        How many.
    row_step, column_step : int
        How far apart they stand.
    """

    rows: int
    columns: int
    row_step: int
    column_step: int


def pitch_of(storage: str, slab: int) -> int:
    """Return the elements from row to row of a tile: the slab, and a packet of padding."""
    return slab + ptx.VECTOR[storage]


@functools.cache
def products(storage: str, slab: int, outputs: Outputs) -> tuple[Any, Any]:
    """Make the device functions that read tiles and multiply.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    slab : int
    outputs : Outputs

    Returns
    -------
    load_rows : device function
        ``load_rows(tiles, at, a_part)`` takes a packet of each of the thread's rows of A, the first
        at an element of the tiles, into registers ``[rows, packet]``.
    multiply : device function
        ``multiply(tiles, at, a_part, total)`` multiplies them by packets of W, likewise, and adds
        to the sums ``[rows, columns]``.
    """
    PITCH = pitch_of(storage, slab)
    ROWS, ROW_STEP = outputs.rows, outputs.row_step * PITCH
    COLUMN_STEP = outputs.column_step * PITCH
    STRIP = min(outputs.columns, max(1, _UNROLLED // (ROWS * QUAD)))

    @cuda.jit(device=True)
    def load_rows(tiles, at, a_part):
        """Take a packet of each of the thread's rows of A into registers."""
        for i in range(ROWS):
            quad = ptx.load_quad(tiles, at + i * ROW_STEP)
            for e in range(QUAD):
                a_part[i, e] = quad[e]

    @cuda.jit(device=True)
    def multiply(tiles, at, a_part, total, first):
        """Multiply by a strip of columns of W, whose packets come as they are needed."""
        w_part = cuda.local.array(QUAD, float32)
        for j in range(STRIP):
            quad = ptx.load_quad(tiles, at + (first + j) * COLUMN_STEP)
            for e in range(QUAD):
                w_part[e] = quad[e]
            for e in range(QUAD):
                for i in range(ROWS):
                    total[i, first + j] += a_part[i, e] * w_part[e]

    columns = STRIP
    while columns < outputs.columns:
        multiply = _twice(multiply, columns)
        columns *= 2
    return load_rows, multiply


def _twice(multiply: Any, columns: int) -> Any:
    """Make a function of twice as many columns."""

    @cuda.jit(device=True)
    def both(tiles, at, a_part, total, first):
        """Multiply by these columns, then by as many more."""
        multiply(tiles, at, a_part, total, first)
        multiply(tiles, at, a_part, total, first + columns)

    return both


@functools.cache
def storing(outputs: Outputs, threads: int, gated: bool = False) -> Any:
    """Make the device function that finishes a thread's outputs and stores them.

    Parameters
    ----------
    outputs : Outputs
    threads : int
        Of a block.
    gated : bool
        Whether the first half of a thread's columns are gates, and the other half what they
        multiply.

    Returns
    -------
    device function
        ``store(total, passing, t, row, column, bias, residual, activation, c)`` with the thread's
        number t, its first row and column of C, and float32 ``passing``
        in shared memory, with room for the columns of all threads.

    Notes
    -----
    All that an epilogue may hold is too much code to be there once for each of the sums. In a loop
    that is not unrolled the index cannot move, so the numbers do: row by row up to the first, and
    from there through shared memory. Each thread reads what it wrote itself.
    """
    ROWS, COLUMNS, ROW_STEP, COLUMN_STEP = outputs
    RESULTS = COLUMNS // 2 if gated else COLUMNS

    @cuda.jit(device=True)
    def store(total, passing, t, row, column, bias, residual, activation, c):
        """Finish row by row: the numbers move to where the epilogue looks."""
        for m in range(row, row + ROWS * ROW_STEP, ROW_STEP):
            for j in range(COLUMNS):
                passing[j * threads + t] = total[0, j]
            for j in range(RESULTS):
                n = column + j * COLUMN_STEP
                if m < c.shape[0] and n < c.shape[1]:
                    if gated:
                        gate, up = passing[j * threads + t], passing[(j + RESULTS) * threads + t]
                        value = finish_gated(gate, up, m, n, bias, residual)
                    else:
                        value = finish(passing[j * threads + t], m, n, bias, residual, activation)
                    c[m, n] = ptx.from_float(c, value)
            for i in range(ROWS - 1):
                for j in range(COLUMNS):
                    total[i, j] = total[i + 1, j]

    return store
