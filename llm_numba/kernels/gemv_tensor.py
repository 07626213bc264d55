r"""The last step of the GEMV ladder: tensor cores, so that 8 rows of x cost what one costs.

With 8 rows of x the ordinary units have 64 multiply-adds for each packet of 8 weights, and x to
load and to widen. That takes longer than memory needs for the packet. A tensor core multiplies 16
rows of weights by 8 rows of x, 16 numbers of each, in one instruction:
:func:`~llm_numba.kernels.ptx.tensor.mma_16x8x16`. The weights are its A, and the rows of x are the
columns of its B.

Weights go from memory straight into fragments, with no shared memory between. Any 16 numbers along
K may be "the 16", if only A and B take the same. So a lane loads 16 bytes, 8 neighbours in its
row, and two instructions share them:

::

    row g along K          0 .. 7     8 .. 15    16 .. 23   24 .. 31     row g + 8 likewise:
    lane                   4g         4g + 1     4g + 2     4g + 3
    its words              0 1 2 3    0 1 2 3    0 1 2 3    0 1 2 3
    in the first mma       a0  a2     a0  a2     a0  a2     a0  a2       a1 a3
    in the second mma          a0 a2      a0 a2      a0 a2      a0 a2        a1 a3

A lane has the same place along K of a row of x, and its words are b0 and b1 of both.

As in the step before, several warps share the rows, and up to 8 rows of x the order of additions
follows from N and K alone. A column of B has sums of its own: so a row of x has the same result, to
the bit, whatever the others are. More rows meet the same weights as 2 or 4 columns of 8.

Before an RMSNorm's product with W comes x_k times its weight, which is no bfloat16. Two of them
are near: one is the product rounded, the other what that left out, rounded too. Both are
multiplied, and of the product's 24 digits at least 16 are kept.
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, float32, int64, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemv_epilogue import add_and_store
from llm_numba.kernels.reduce import FULL_WARP, WARP
from llm_numba.kernels.unrolled import unrolled
from llm_numba.runtime import starts_early

GROUP = 8  # rows that a warp's lanes have at a time: of x, and of weights
GROUPS = 2  # of weights in a tile: what one instruction takes; with a gate, the first is the gate's
ROWS = GROUP * GROUPS
SPAN = 32  # numbers along K that a warp has of each: 16 bytes in each of four lanes

# Threads of an SM that there shall be registers for, by the columns of a tile.
_RESIDENT = {1: 512, 2: 384, 4: 384}


class Tile(NamedTuple):
    """What a warp of :func:`tensor_kernel` multiplies at a time: 16 rows of weights by rows of x.

    Attributes
    ----------
    columns : int
        Of 8 rows of x.
    packets : int
        Of each row of weights that a lane has under way.
    """

    columns: int
    packets: int


@functools.cache
def load_group(step: int) -> Any:
    """Make the device function that loads a packet of one row of weights in each lane.

    Parameters
    ----------
    step : int
        Numbers along K from one packet of a lane to its next.

    Returns
    -------
    device function
        Takes the number of a packet, row by row and then along K, and the operands that the kernel
        below passes.
    """

    @cuda.jit(device=True, forceinline=True)
    def load(i, operands):
        """Load packet i // 2 of the row in group i % 2, or zeros beyond its end."""
        weight, begin, k, held = operands
        p, r = i // GROUPS, i % GROUPS
        k += p * step
        words = ptx.load_raw16_or_zeros(weight, begin[r] + k, k < weight.shape[1])
        for w in range(4):
            held[p, r, w] = words[w]

    return load


@cuda.jit(device=True, forceinline=True)
def multiply_half(i, operands):
    """Multiply words 0 and 1 of both groups' packets by those of x if i is 0, 2 and 3 if it is 1.

    Operands are x, for its type, the packets, which of them, a column of 8 rows of x, the lane's 4
    words of it, and where the sums are.
    """
    x, held, p, column, words, total = operands
    w = 2 * i
    a = held[p, 0, w], held[p, 1, w], held[p, 0, w + 1], held[p, 1, w + 1]
    b = (words[2], words[3]) if w else (words[0], words[1])
    sums = total[column, 0], total[column, 1], total[column, 2], total[column, 3]
    c = ptx.mma_16x8x16(x, a, b, sums)
    for e in range(4):
        total[column, e] = c[e]


@functools.cache
def multiply_column(tile: Tile, step: int, normed: bool) -> Any:
    """Make the device function that multiplies a packet of all rows of weights by 8 rows of x.

    Parameters
    ----------
    tile : Tile
    step : int
        Numbers along K from one packet of a lane to its next.
    normed : bool

    Returns
    -------
    device function
        Takes the number of a column, column by column and then along K, and the operands that the
        kernel below passes.
    """
    multiply_all = unrolled(2, multiply_half)

    @cuda.jit(device=True, forceinline=True)
    def multiply(i, operands):
        """Load packet i // columns of the lane's row of x in column i % columns; multiply."""
        x, of_x, norm_weight, k, held, total, square = operands
        p, column = i // tile.columns, i % tile.columns
        k += p * step
        inside = k < x.shape[1]
        words = uint32(0), uint32(0), uint32(0), uint32(0)
        if inside:
            words = ptx.load_raw16(x, of_x[column] + k)
        if normed:
            values = ptx.widen_raw16(x, words)
            scales = ptx.load16(norm_weight, k if inside else 0)
            for e in range(8):
                square[column] += values[e] * values[e]
                values = ptx.with_item(values, e, values[e] * scales[e])
            words = ptx.round_raw16(x, values)
            rounded = ptx.widen_raw16(x, words)
            for e in range(8):
                values = ptx.with_item(values, e, values[e] - rounded[e])
            left_out = ptx.round_raw16(x, values)
            multiply_all(0, (x, held, p, column, left_out, total))
        multiply_all(0, (x, held, p, column, words, total))

    return multiply


@functools.cache
def tensor_kernel(tile: Tile, warps: int, gated: bool, normed: bool, early: bool, /) -> Any:
    """Make the kernel of the last step.

    Parameters
    ----------
    tile : Tile
    warps : int
        That share a row.
    gated, normed : bool
        Whether there is a gate, and whether there is a norm.
    early : bool
        Whether the kernel may begin before the one before it, which makes x, has ended.

    Returns
    -------
    kernel
    """
    columns, packets = tile
    THREADS, STEP, M = WARP * warps, SPAN * warps, GROUP * columns
    OUTPUTS = ROWS // 2 if gated else ROWS
    load_one, multiply_one = load_group(STEP), multiply_column(tile, STEP, normed)
    load_next, load_all = unrolled(GROUPS, load_one), unrolled(GROUPS * packets, load_one)
    multiply_next = unrolled(columns, multiply_one)
    finish = add_and_store(warps, OUTPUTS, gated, normed)

    @cuda.jit(device=True, forceinline=True)
    def multiply_and_load(p, operands):
        """Multiply packet p of all rows, and send for the one that takes its place."""
        weight, begin, x, of_x, norm_weight, k, held, total, square = operands
        multiply_next(p * columns, (x, of_x, norm_weight, k, held, total, square))
        load_next(p * GROUPS, (weight, begin, k + packets * STEP, held))

    turn = unrolled(packets, multiply_and_load)

    @cuda.jit(launch_bounds=(THREADS, max(1, _RESIDENT[columns] // THREADS)))
    def gemv_tensor(x, weight, bias, residual, norm_weight, eps, activation, out):
        """Keep packets of all rows of the tile under way, and multiply each as it comes."""
        held = cuda.local.array((packets, GROUPS, 4), uint32)
        total = cuda.local.array((columns, 4), float32)
        square = cuda.local.array(columns, float32)
        begin, of_x = cuda.local.array(GROUPS, int64), cuda.local.array(columns, int64)
        partial = cuda.shared.array((warps, ROWS, M), float32)
        squares = cuda.shared.array((warps, M), float32)
        lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
        g, t = lane // 4, lane % 4
        K, outputs, first = weight.shape[1], out.shape[1], SPAN * warp + 8 * t
        for r in range(GROUPS):
            row = min(cuda.blockIdx.x * OUTPUTS + GROUP * r % OUTPUTS + g, outputs - 1)
            begin[r] = (row + outputs if GROUP * r >= OUTPUTS else row) * K
        load_all(0, (weight, begin, first, held))
        for column in range(columns):
            of_x[column] = min(GROUP * column + g, x.shape[0] - 1) * K
            square[column] = float32(0)
            for i in range(4):
                total[column, i] = float32(0)
        if early:
            # When all blocks have come here, the next kernel's take the places that are free.
            ptx.release_next_kernel()
            ptx.await_previous_kernel()

        for start in range(0, K, packets * STEP):
            k = start + first
            turn(0, (weight, begin, x, of_x, norm_weight, k, held, total, square))

        for column in range(columns):
            for i in range(4):
                m = GROUP * column + 2 * t + i % 2
                partial[warp, g + i // 2 * GROUP, m] = total[column, i]
        for column in range(columns if normed else 0):
            squared = square[column]
            squared += cuda.shfl_xor_sync(FULL_WARP, squared, 1)
            squared += cuda.shfl_xor_sync(FULL_WARP, squared, 2)
            squares[warp, GROUP * column + g] = squared
        cuda.syncthreads()
        finish(partial, squares, K, eps, bias, residual, activation, out)

    return starts_early(gemv_tensor) if early else gemv_tensor
