"""Lab 5: LayerNorm in one pass over memory.

For each row t of N numbers, with its own mean and variance:

    y[n] = (t[n] - mean) / sqrt(variance + eps) * weight[n] + bias[n]

In steps 1 to 3 a row belongs to a warp: blocks of 32 x 4 threads, a grid of M / 4 blocks, rounded
up. `threadIdx.x` is the lane, `threadIdx.y` tells which of the block's four rows. In step 4 a row
belongs to a block of 128 threads along x, and the grid has M blocks.
"""

import math

from numba import cuda, float32

WARP = 32
FULL_WARP = 0xFFFFFFFF
ROWS = 4  # rows of a block in steps 1 to 3
WARPS = 4  # warps of a block in step 4
HELD = 8  # numbers of a row that a thread can hold


@cuda.jit(device=True)
def warp_sum(value):
    """Add a float32 over the 32 lanes of a warp. Every lane gets the sum.

    Requirements:

    - Shuffles only: no shared memory.

    Parameters
    ----------
    value : float32

    Returns
    -------
    float32
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 5, step 1")
    # --- end ---


@cuda.jit
def statistics(x, mean, variance):
    """Find mean and variance of each row; a row belongs to a warp.

    Requirements:

    - The lanes of a warp read neighbours: at most 5 sectors a request.
    - Each row is read at most twice, and each result is written once.
    - The variance is right to 4 digits even where the mean is a thousand times the deviation.

    Parameters
    ----------
    x : float32 [M, N]
    mean, variance : float32 [M]
        The variance is the mean of the squared distances: divided by N, not by N - 1.
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 5, step 1")
    # --- end ---


@cuda.jit(device=True)
def hold(x, row, held):
    """Load a thread's numbers of a row: its own column and every `blockDim.x`-th behind it.

    Requirements:

    - ``held[i]`` becomes ``x[row, threadIdx.x + i * blockDim.x]`` where the row has that column.
    - It works in steps 2 to 4, whatever `cuda.blockDim.x` is.

    Parameters
    ----------
    x : float32 [M, N]
    row : int
    held : local float32 [HELD]
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 5, step 2")
    # --- end ---


@cuda.jit(device=True)
def held_statistics(held, N):
    """Return mean and variance of a row that the lanes of a warp hold.

    Requirements:

    - No access to memory: only registers and shuffles.
    - As exact as `statistics`.

    Parameters
    ----------
    held : local float32 [HELD]
        As `hold` left it: numbers beyond the row were never written.
    N : int
        Numbers in the row.

    Returns
    -------
    mean, variance : float32
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 5, step 2")
    # --- end ---


@cuda.jit(device=True)
def write_normed(held, mean, variance, weight, bias, eps, row, y):
    """Normalise, scale and shift what a thread holds, and write it.

    Requirements:

    - As for `hold`: it works in steps 2 to 4.

    Parameters
    ----------
    held : local float32 [HELD]
    mean, variance : float32
    weight, bias : float32 [N]
    eps : float32
    row : int
    y : float32 [M, N]
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 5, step 2")
    # --- end ---


@cuda.jit
def layer_norm(x, weight, bias, eps, y):
    """Normalise each row; a row belongs to a warp, which keeps it in registers.

    Requirements:

    - Each element of x is read once and each element of y is written once.
    - At most 5 sectors a request. No shared memory.

    Parameters
    ----------
    x, y : float32 [M, N]
        N is at most 256: 8 numbers a lane.
    weight, bias : float32 [N]
    eps : float32
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 5, step 2")
    # --- end ---


@cuda.jit
def add_layer_norm(x, residual, weight, bias, eps, total, y):
    """Add the residual stream first, then normalise the sum: the two in one kernel.

    Requirements:

    - Each element of x and of residual is read once. Each element of total and of y is written
      once. Total is not read.
    - At most 5 sectors a request. No shared memory.

    Parameters
    ----------
    x, residual : float32 [M, N]
    weight, bias : float32 [N]
    eps : float32
    total : float32 [M, N]
        Becomes x + residual, which the next layers need.
    y : float32 [M, N]
        Becomes the norm of total.
    """
    # --- your code: step 3 ---
    raise NotImplementedError("lab 5, step 3")
    # --- end ---


@cuda.jit(device=True)
def merge(count_a, mean_a, squares_a, count_b, mean_b, squares_b):
    """Merge what is known of two parts of a row, by the rule of Chan, Golub and LeVeque.

    Requirements:

    - A part with no number in it changes nothing, and two empty parts give an empty one: no NaN.

    Parameters
    ----------
    count_a, count_b : float32
        Numbers in the part.
    mean_a, mean_b : float32
    squares_a, squares_b : float32
        Sum of the squared distances of the part's numbers from the part's own mean.

    Returns
    -------
    count, mean, squares : float32
        Of both parts together.
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 5, step 4")
    # --- end ---


@cuda.jit
def merge_pairs(a, b, merged):
    """Merge pairs of parts, a thread each, to look at. Given: it calls your `merge`.

    Parameters
    ----------
    a, b, merged : float32 [3, pairs]
        Row 0 has the counts, row 1 the means, row 2 the squares.
    """
    i = cuda.grid(1)
    if i < merged.shape[1]:
        merged[0, i], merged[1, i], merged[2, i] = merge(
            a[0, i], a[1, i], a[2, i], b[0, i], b[1, i], b[2, i]
        )


@cuda.jit
def layer_norm_wide(x, weight, bias, eps, y):
    """Normalise each row; a row belongs to a block of 128 threads, whose warps meet once.

    Requirements:

    - As for `layer_norm`: one read of x, one write of y, at most 5 sectors a request.
    - One barrier a block.
    - No bank conflicts.

    Parameters
    ----------
    x, y : float32 [M, N]
        N is at most 1024: 8 numbers a thread.
    weight, bias : float32 [N]
    eps : float32
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 5, step 4")
    # --- end ---
