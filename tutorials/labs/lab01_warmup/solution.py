"""Lab 1, warm-up: a first kernel, its launch, a stride, two axes."""

from numba import cuda

from llm_numba.runtime import launch

THREADS = 256


@cuda.jit
def saxpy(alpha, x, y, out):
    """Compute ``out[i] = alpha * x[i] + y[i]``, one thread an element.

    Requirements: the grid may have more threads than there are elements, and the rest do nothing.
    Each element of x and y is read once, each element of out is written once.

    Parameters
    ----------
    alpha : float32
    x, y, out : float32 [N]
    """
    # --- your code: step 1 ---
    i = cuda.grid(1)
    if i < out.size:
        out[i] = alpha * x[i] + y[i]
    # --- end ---


def launch_saxpy(alpha, x, y, out):
    """Launch `saxpy` on vectors of any length.

    Requirements: one launch, in blocks of ``THREADS`` threads, with as few blocks as reach every
    element. It reads ``launch(kernel, grid, block, args)``, and args is a tuple.

    Parameters
    ----------
    alpha : float32
    x, y, out : float32 [N]
        On the device.
    """
    # --- your code: step 2 ---
    blocks = (out.size + THREADS - 1) // THREADS
    launch(saxpy, blocks, THREADS, (alpha, x, y, out))
    # --- end ---


@cuda.jit
def saxpy_stride(alpha, x, y, out):
    """Compute the same with any grid: a thread takes as many elements as come to it.

    Requirements: right for grids of any size, smaller than N too. Neighbouring threads touch
    neighbouring elements, in each round of the loop, so that no sector is moved twice.

    Parameters
    ----------
    alpha : float32
    x, y, out : float32 [N]
    """
    # --- your code: step 3 ---
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = alpha * x[i] + y[i]
    # --- end ---


@cuda.jit
def add_bias(x, bias, out):
    """Compute ``out[row, column] = x[row, column] + bias[column]``.

    The grid and the block have two axes, x and y, and at least as many threads as the matrix has
    elements along each: along x for the columns, along y for the rows.

    Requirements: threads outside the matrix do nothing. The lanes of a warp lie along x; they touch
    elements that lie side by side.

    Parameters
    ----------
    x, out : float32 [M, N]
    bias : float32 [N]
    """
    # --- your code: step 4 ---
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] + bias[column]
    # --- end ---
