"""Lab 6: softmax in fewer passes, by the online rule.

For each row x of N numbers, with m the largest of them:

    y[n] = exp(x[n] - m) / (exp(x[0] - m) + ... + exp(x[N - 1] - m))

Entries of x may be minus infinity: they are masked, and their y is 0. In a row in which all are
masked, every y is 0. No entry is plus infinity or NaN.

In step 1 a row belongs to a warp: blocks of 32 x 4 threads, a grid of M / 4 blocks, rounded up. In
step 3 a row belongs to a block of 128 threads along x. In step 4 a row belongs to several blocks:
each takes 256 numbers of it.
"""

import math

from numba import cuda, float32

WARP = 32
FULL_WARP = 0xFFFFFFFF
ROWS = 4  # rows of a block in step 1
WARPS = 4  # warps of a block in steps 3 and 4
THREADS = WARPS * WARP
CHUNK = 256  # numbers of a block in step 4
NOTHING = float32(-math.inf)  # the largest of no numbers


@cuda.jit
def softmax_stable(x, y):
    """Softmax of each row, in three passes: largest, sum, result. A row belongs to a warp.

    Requirements:

    - Right for numbers of any size: 1000 must not overflow, and equal numbers share equally.
    - A row of minus infinity gives zeros.
    - The lanes of a warp read neighbours, and no row is read more than three times.

    Parameters
    ----------
    x, y : float32 [M, N]
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 6, step 1")
    # --- end ---


@cuda.jit(device=True)
def merge(top_a, total_a, top_b, total_b):
    """Merge what is known of two parts of a row: the online rule.

    A part is known by its largest number, `top`, and by the sum of ``exp(x - top)`` over its
    numbers, `total`. A part without numbers, or with masked ones only, is (minus infinity, 0).

    Requirements:

    - The result is that of both parts together.
    - No overflow, whatever the tops are.
    - A part without numbers changes nothing, and two of them give (minus infinity, 0): no NaN.

    Parameters
    ----------
    top_a, total_a, top_b, total_b : float32

    Returns
    -------
    top, total : float32
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 6, step 2")
    # --- end ---


@cuda.jit
def merge_pairs(tops_a, totals_a, tops_b, totals_b, tops, totals):
    """Merge many pairs of parts, a thread each. Given: it calls your `merge`.

    Parameters
    ----------
    tops_a, totals_a, tops_b, totals_b, tops, totals : float32 [M]
    """
    i = cuda.grid(1)
    if i < tops.size:
        tops[i], totals[i] = merge(tops_a[i], totals_a[i], tops_b[i], totals_b[i])


@cuda.jit(device=True)
def part_of_block(x, row, begin, end, tops, totals):
    """Return largest number and sum of ``x[row, begin:end]``, to every thread of the block.

    Requirements:

    - Each number is read once, neighbours by neighbours.
    - One barrier.

    Parameters
    ----------
    x : float32 [M, N]
    row, begin, end : int
    tops, totals : shared float32 [WARPS]
        Room in which the warps leave what they know.

    Returns
    -------
    top, total : float32
    """
    # --- your code: step 3 ---
    raise NotImplementedError("lab 6, step 3")
    # --- end ---


@cuda.jit
def softmax_online(x, y):
    """Softmax of each row, in two passes. Row m belongs to block m, of 128 threads.

    Requirements:

    - Each element of x is read twice, each element of y is written once, nothing else is touched.
    - The lanes of a warp read neighbours: at most 5 sectors a request.
    - One barrier a block.
    - A row of minus infinity gives zeros.

    Parameters
    ----------
    x, y : float32 [M, N]
    """
    # --- your code: step 3 ---
    raise NotImplementedError("lab 6, step 3")
    # --- end ---


@cuda.jit
def softmax_parts(x, tops, totals):
    """Find largest number and sum of each piece of 256 numbers of each row.

    Launched first, with a grid of (P, M) blocks of 128 threads: `blockIdx.x` is the piece.

    Requirements:

    - Each element of x is read once.

    Parameters
    ----------
    x : float32 [M, N]
    tops, totals : float32 [M, P]
        P = N / 256, rounded up.
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 6, step 4")
    # --- end ---


@cuda.jit
def softmax_join(x, tops, totals, y):
    """Write the softmax of each row, of which the pieces are known.

    Launched second, with the same grid and block as `softmax_parts`.

    Requirements:

    - Each element of x is read once, each element of y is written once.
    - No barrier, no shared memory.

    Parameters
    ----------
    x : float32 [M, N]
    tops, totals : float32 [M, P]
    y : float32 [M, N]
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 6, step 4")
    # --- end ---
