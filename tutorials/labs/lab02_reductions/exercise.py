"""Lab 2, reductions and shuffles: add up rows, in shared memory and then in registers."""

from numba import cuda, float32

from llm_numba.runtime import launch, zeros

# Of a block. A power of two, so that halves fold onto halves.
THREADS = 128
WARP = 32
WARPS = THREADS // WARP
# Of the grid in step 4; fewer than there are stretches of a long vector.
BLOCKS = 6
EVERY_LANE = 0xFFFFFFFF


@cuda.jit
def row_sum_tree(x, out):
    """Add up each row: a block a row, and a tree in shared memory.

    First each thread adds up its own elements of the row, ``THREADS`` apart. Then the block folds
    the ``THREADS`` sums: the upper half of the threads' sums onto the lower half, again and again.

    Requirements: each element is read once. The active threads of a fold are the first ones, so
    that whole warps fall idle and no two lanes of a warp want different words of one bank. At most
    one barrier a fold, and one before the first.

    Parameters
    ----------
    x : float32 [M, N]
    out : float32 [M]
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 2, step 1")
    # --- end ---


@cuda.jit(device=True)
def warp_sum(value):
    """Return to each lane the sum of the values of all 32 lanes.

    Requirements: five shuffles, no memory. Every lane of the warp calls it.

    Parameters
    ----------
    value : float32

    Returns
    -------
    float32
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 2, step 2")
    # --- end ---


@cuda.jit
def row_sum_warp(x, out):
    """Add up each row: a warp a row, and no shared memory.

    A block has ``WARPS`` warps, each with a row of its own. The last block may have more warps than
    there are rows left. Uses `warp_sum`.

    Requirements: no shared memory and no barrier. Each element is read once, and the lanes of a
    warp read elements that lie side by side.

    Parameters
    ----------
    x : float32 [M, N]
    out : float32 [M]
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 2, step 2")
    # --- end ---


@cuda.jit
def row_sum_block(x, out):
    """Add up each row: a block a row, shuffles within warps, one word of shared memory a warp.

    Each warp reduces in registers and leaves its sum in shared memory. Then the first warp reduces
    these ``WARPS`` sums.

    Requirements: one barrier. At most ``WARPS`` requests store to shared memory, and one loads.

    Parameters
    ----------
    x : float32 [M, N]
    out : float32 [M]
    """
    # --- your code: step 3 ---
    raise NotImplementedError("lab 2, step 3")
    # --- end ---


@cuda.jit
def vector_sum(x, out):
    """Add up a long vector with a small grid: a stride, shuffles, and one atomic a block.

    Requirements: right for any grid. Each element is read once. Each block adds to ``out[0]``
    exactly once; it was zero before the launch.

    Parameters
    ----------
    x : float32 [N]
    out : float32 [1]
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 2, step 4")
    # --- end ---


def launch_vector_sum(x):
    """Return the sum of a vector.

    Requirements: one launch of `vector_sum`, of ``BLOCKS`` blocks. ``zeros(shape, dtype)`` makes an
    array on the device that holds zeros. Nothing says what one from ``empty`` holds.

    Parameters
    ----------
    x : float32 [N]
        On the device.

    Returns
    -------
    float32 [1]
        On the device.
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 2, step 4")
    # --- end ---
