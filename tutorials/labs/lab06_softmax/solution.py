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
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        top = NOTHING
        for n in range(cuda.threadIdx.x, x.shape[1], WARP):
            top = max(top, x[row, n])
        for distance in (16, 8, 4, 2, 1):
            top = max(top, cuda.shfl_xor_sync(FULL_WARP, top, distance))
        if top == NOTHING:
            top = float32(0)
        total = float32(0)
        for n in range(cuda.threadIdx.x, x.shape[1], WARP):
            total += math.exp(x[row, n] - top)
        for distance in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(FULL_WARP, total, distance)
        inverse = float32(1) / total if total > float32(0) else float32(0)
        for n in range(cuda.threadIdx.x, x.shape[1], WARP):
            y[row, n] = math.exp(x[row, n] - top) * inverse
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
    top = max(top_a, top_b)
    base = top if top > NOTHING else float32(0)
    return top, total_a * math.exp(top_a - base) + total_b * math.exp(top_b - base)
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
    top, total = NOTHING, float32(0)
    for n in range(begin + cuda.threadIdx.x, end, THREADS):
        top, total = merge(top, total, x[row, n], float32(1))
    for distance in (16, 8, 4, 2, 1):
        other_top = cuda.shfl_xor_sync(FULL_WARP, top, distance)
        other_total = cuda.shfl_xor_sync(FULL_WARP, total, distance)
        top, total = merge(top, total, other_top, other_total)
    if cuda.threadIdx.x % WARP == 0:
        tops[cuda.threadIdx.x // WARP] = top
        totals[cuda.threadIdx.x // WARP] = total
    cuda.syncthreads()
    top, total = NOTHING, float32(0)
    for warp in range(WARPS):
        top, total = merge(top, total, tops[warp], totals[warp])
    return top, total
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
    tops = cuda.shared.array(WARPS, float32)
    totals = cuda.shared.array(WARPS, float32)
    row, N = cuda.blockIdx.x, x.shape[1]
    top, total = part_of_block(x, row, 0, N, tops, totals)
    base = top if top > NOTHING else float32(0)
    inverse = float32(1) / total if total > float32(0) else float32(0)
    for n in range(cuda.threadIdx.x, N, THREADS):
        y[row, n] = math.exp(x[row, n] - base) * inverse
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
    warp_tops = cuda.shared.array(WARPS, float32)
    warp_totals = cuda.shared.array(WARPS, float32)
    piece, row = cuda.blockIdx.x, cuda.blockIdx.y
    begin = piece * CHUNK
    end = min(begin + CHUNK, x.shape[1])
    top, total = part_of_block(x, row, begin, end, warp_tops, warp_totals)
    if cuda.threadIdx.x == 0:
        tops[row, piece] = top
        totals[row, piece] = total
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
    row = cuda.blockIdx.y
    top, total = NOTHING, float32(0)
    for piece in range(tops.shape[1]):
        top, total = merge(top, total, tops[row, piece], totals[row, piece])
    base = top if top > NOTHING else float32(0)
    inverse = float32(1) / total if total > float32(0) else float32(0)
    begin = cuda.blockIdx.x * CHUNK
    for n in range(begin + cuda.threadIdx.x, min(begin + CHUNK, x.shape[1]), THREADS):
        y[row, n] = math.exp(x[row, n] - base) * inverse
    # --- end ---
