"""Norms fused with the addition before them and the activation behind them.

The threads of a row keep their numbers of x + residual in registers. The sum is rounded to its
storage format before the norm sees it: so the norm is that of the stream that the next layers
read, and a fused kernel gives what one kernel after the other would give.

A register has no index, so a loop over registers is unrolled, each number with code of its own.
Eight numbers of a thread, and the column of each, are what 64 registers have room for. What a row
has beyond that, in rows of more than 8192 numbers, is read again.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import activate
from llm_numba.kernels.layernorm_rows import inverse_deviation, normed
from llm_numba.kernels.rows import MAX_THREADS, MAX_WARPS, sum_over_row

# Of a row, in the registers of a thread.
NUMBERS = 8


@cuda.jit(device=True)
def _add(x, residual, row, column):
    return ptx.to_float(x[row, column]) + ptx.to_float(residual[row, column])


@cuda.jit(device=True)
def _hold_sum(x, residual, total, row, held):
    """Write x + residual, hold what a thread has room for, and return the thread's share of it.

    Numbers beyond that go to memory only, and are read again from `total` by the thread that
    wrote them.
    """
    first, step, share = cuda.threadIdx.x, cuda.blockDim.x, float32(0)
    # Loads and stores in loops of their own: a load may not overtake a store to what may be the
    # same memory.
    for k in range(NUMBERS):
        if first + k * step < x.shape[1]:
            held[k] = _add(x, residual, row, first + k * step)
    for k in range(NUMBERS):
        if first + k * step < x.shape[1]:
            stored = ptx.from_float(total, held[k])
            total[row, first + k * step] = stored
            held[k] = ptx.to_float(stored)
            share += held[k]
    for j in range(first + NUMBERS * step, x.shape[1], step):
        stored = ptx.from_float(total, _add(x, residual, row, j))
        total[row, j] = stored
        share += ptx.to_float(stored)
    return share


@cuda.jit(device=True)
def _held_squares(total, row, mean, held):
    """Return a thread's share of the squared distances from the mean."""
    first, step, share = cuda.threadIdx.x, cuda.blockDim.x, float32(0)
    for k in range(NUMBERS):
        if first + k * step < total.shape[1]:
            share += (held[k] - mean) * (held[k] - mean)
    for j in range(first + NUMBERS * step, total.shape[1], step):
        distance = ptx.to_float(total[row, j]) - mean
        share += distance * distance
    return share


@cuda.jit(device=True)
def _mean_and_inverse(x, residual, bias, eps, total, row, held, partial_sums, partial_squares):
    """Add, hold, and find what the norm subtracts and multiplies by."""
    length = x.shape[1]
    share = _hold_sum(x, residual, total, row, held)
    mean = float32(0)
    if bias.size > 0:
        mean = sum_over_row(share, partial_sums) / float32(length)
    squares = sum_over_row(_held_squares(total, row, mean, held), partial_squares)
    return mean, inverse_deviation(squares, length, eps)


@cuda.jit(launch_bounds=MAX_THREADS)
def norm_residual(x, residual, weight, bias, eps, total, out):
    """Add to the residual stream and normalise the sum while it is in registers.

    The sum is written for the layers to come, and not read again.
    """
    partial_sums = cuda.shared.array(MAX_WARPS, float32)
    partial_squares = cuda.shared.array(MAX_WARPS, float32)
    held = cuda.local.array(NUMBERS, float32)
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row >= x.shape[0]:  # a whole warp without a row; where warps share one, none returns
        return
    mean, inverse = _mean_and_inverse(
        x, residual, bias, eps, total, row, held, partial_sums, partial_squares
    )
    first, step = cuda.threadIdx.x, cuda.blockDim.x
    for k in range(NUMBERS):
        j = first + k * step
        if j < x.shape[1]:
            value = normed(held[k], mean, inverse, weight, bias, j)
            out[row, j] = ptx.from_float(out, value)
    for j in range(first + NUMBERS * step, x.shape[1], step):
        value = normed(ptx.to_float(total[row, j]), mean, inverse, weight, bias, j)
        out[row, j] = ptx.from_float(out, value)


@cuda.jit(launch_bounds=MAX_THREADS)
def norm_activated(x, residual, weight, bias, eps, activation, total, out):
    """Apply the activation, too, before the result leaves the registers.

    A kernel of its own would read all of it and write all of it again.
    """
    partial_sums = cuda.shared.array(MAX_WARPS, float32)
    partial_squares = cuda.shared.array(MAX_WARPS, float32)
    held = cuda.local.array(NUMBERS, float32)
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row >= x.shape[0]:
        return
    mean, inverse = _mean_and_inverse(
        x, residual, bias, eps, total, row, held, partial_sums, partial_squares
    )
    first, step = cuda.threadIdx.x, cuda.blockDim.x
    for k in range(NUMBERS):
        j = first + k * step
        if j < x.shape[1]:
            value = normed(held[k], mean, inverse, weight, bias, j)
            out[row, j] = ptx.from_float(out, activate(value, activation))
    for j in range(first + NUMBERS * step, x.shape[1], step):
        value = normed(ptx.to_float(total[row, j]), mean, inverse, weight, bias, j)
        out[row, j] = ptx.from_float(out, activate(value, activation))
