"""Lab 3: transpose a matrix, and keep the banks of shared memory free of queues.

Every kernel here is launched with blocks of 32 x 8 threads, and with a grid of
(columns of x / 32, rows of x / 32) blocks, rounded up. Threads with the same `threadIdx.y` are one
warp. A block owns a tile of 32 x 32 elements of x. Tiles at the edges are only partly there.
"""

from numba import cuda, float32

TILE = 32
ROWS = 8  # rows of threads in a block: each thread moves TILE // ROWS elements


@cuda.jit(device=True)
def corner():
    """Return the first row and the first column of this block's tile of x. Given."""
    return cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE


@cuda.jit(device=True)
def take(x, square):
    """Copy this block's tile of x into shared memory, rows to rows.

    Requirements:

    - ``square[r, c]`` becomes ``x[row + r, column + c]``, where row and column are the corner.
    - The 32 lanes of a warp copy 32 neighbours of one row of x.
    - Elements outside x are not touched.

    Parameters
    ----------
    x : float [M, N]
    square : shared float [32, 32 or more]
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 3, step 1")
    # --- end ---


@cuda.jit(device=True)
def give(square, y):
    """Copy the tile from shared memory to its place in y, columns to rows.

    Requirements:

    - ``y[column + c, row + r]`` becomes ``square[r, c]``, where row and column are the corner.
    - The 32 lanes of a warp write 32 neighbours of one row of y.
    - Elements outside y are not touched.

    Parameters
    ----------
    square : shared float [32, 32 or more]
    y : float [N, M]
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 3, step 1")
    # --- end ---


@cuda.jit
def turn_tile(x, y):
    """Transpose x by way of a tile of 32 x 32 words in shared memory.

    Requirements:

    - Each element of x is read once, each element of y is written once.
    - No request to global memory moves more than 5 sectors. (Four hold 32 floats; a row that does
      not begin at a multiple of 32 bytes takes one more.)
    - No thread reads what another has not yet written.

    Parameters
    ----------
    x : float32 [M, N]
    y : float32 [N, M]
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 3, step 1")
    # --- end ---


@cuda.jit
def turn_padded(x, y):
    """Transpose as `turn_tile` does, without bank conflicts.

    Requirements: those of `turn_tile`, and

    - Each request to shared memory takes one wavefront.
    - The tile takes at most 4224 bytes: 128 more than its elements need.

    Parameters
    ----------
    x : float32 [M, N]
    y : float32 [N, M]
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 3, step 2")
    # --- end ---


@cuda.jit
def turn_halves(x, y):
    """Transpose elements of 2 bytes without bank conflicts.

    Requirements:

    - As for `turn_padded`: 5 sectors a request at most, and one wavefront a request.
    - The tile takes at most 2176 bytes.

    Parameters
    ----------
    x : float16 [M, N]
    y : float16 [N, M]
    """
    # --- your code: step 3 ---
    raise NotImplementedError("lab 3, step 3")
    # --- end ---


@cuda.jit
def turn_swizzled(x, y):
    """Transpose without bank conflicts and without a byte of padding.

    Requirements: those of `turn_padded`, but

    - The tile takes at most 4096 bytes: exactly its elements.

    Parameters
    ----------
    x : float32 [M, N]
    y : float32 [N, M]
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 3, step 4")
    # --- end ---
