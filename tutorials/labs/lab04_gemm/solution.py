"""Lab 4: multiply matrices, and read each number from memory once for many uses.

A linear layer computes C = A W^T: A is [M, K], W is [N, K] as checkpoints store it, C is [M, N].
Both operands lie along K. The kernels are launched with blocks of 32 x 32 threads in steps 1 to 3
and of 32 x 8 threads in step 4, and always with a grid of (N / 32, M / 32) blocks, rounded up.
Threads with the same `threadIdx.y` are one warp.
"""

from numba import cuda, float32

TILE = 32
ROWS = 8  # rows of threads in a block of step 4
OUTPUTS = TILE // ROWS  # of a thread in step 4


@cuda.jit
def product_plain(a, w, c):
    """Multiply, one thread an output: ``c[m, n]`` is the sum of ``a[m, k] * w[n, k]`` over k.

    Requirements:

    - The lanes of a warp own 32 neighbours of one row of C.
    - The sum grows in a register. C is written once and never read.
    - Two requests to global memory for each k and warp, and no more.

    Parameters
    ----------
    a : float32 [M, K]
    w : float32 [N, K]
    c : float32 [M, N]
    """
    # --- your code: step 1 ---
    m = cuda.blockIdx.y * TILE + cuda.threadIdx.y
    n = cuda.blockIdx.x * TILE + cuda.threadIdx.x
    if m < c.shape[0] and n < c.shape[1]:
        total = float32(0)
        for k in range(a.shape[1]):
            total += a[m, k] * w[n, k]
        c[m, n] = total
    # --- end ---


@cuda.jit(device=True)
def fill(tile, source, first_row, first_k):
    """Copy 32 x 32 numbers of A or of W into shared memory.

    Requirements:

    - ``tile[r, i]`` becomes ``source[first_row + r, first_k + i]``, and zero where source ends.
    - The lanes of a warp copy 32 neighbours along K.
    - It works in blocks of 32 x 32 and of 32 x 8 threads (`cuda.blockDim.y` tells which).

    Parameters
    ----------
    tile : shared float32 [32, 32 or more]
    source : float32 [rows, K]
    first_row, first_k : int
    """
    # --- your code: step 2 ---
    k = first_k + cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, cuda.blockDim.y):
        inside = first_row + r < source.shape[0] and k < source.shape[1]
        tile[r, cuda.threadIdx.x] = source[first_row + r, k] if inside else float32(0)
    # --- end ---


@cuda.jit
def fill_and_copy(source, first_row, first_k, copy):
    """Fill a tile and copy it out, to look at. Given: it calls your `fill`.

    Launched with one block of 32 x 8 or 32 x 32 threads.

    Parameters
    ----------
    source : float32 [rows, K]
    first_row, first_k : int
    copy : float32 [32, 32]
    """
    tile = cuda.shared.array((TILE, TILE), float32)
    fill(tile, source, first_row, first_k)
    cuda.syncthreads()
    for r in range(cuda.threadIdx.y, TILE, cuda.blockDim.y):
        copy[r, cuda.threadIdx.x] = tile[r, cuda.threadIdx.x]


@cuda.jit(device=True)
def walk(a, w, c, a_tile, w_tile):
    """Compute this block's 32 x 32 outputs, with 32 numbers of K in shared memory at a time.

    Requirements:

    - Each number that the block loads from A or W is loaded once.
    - Global memory is touched along rows: at most 5 sectors a request.
    - Nobody reads a tile before it is full, and nobody fills it while somebody still reads.

    Parameters
    ----------
    a, w, c : float32 [M, K], [N, K], [M, N]
    a_tile, w_tile : shared float32 [32, 32 or more]
    """
    # --- your code: step 2 ---
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    first_m, first_n = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    total = float32(0)
    for first_k in range(0, a.shape[1], TILE):
        fill(a_tile, a, first_m, first_k)
        fill(w_tile, w, first_n, first_k)
        cuda.syncthreads()
        for i in range(TILE):
            total += a_tile[ty, i] * w_tile[tx, i]
        cuda.syncthreads()
    if first_m + ty < c.shape[0] and first_n + tx < c.shape[1]:
        c[first_m + ty, first_n + tx] = total
    # --- end ---


@cuda.jit
def product_tiled(a, w, c):
    """Multiply by way of two tiles of 32 x 32 in shared memory. Given: `walk` does the work.

    Parameters
    ----------
    a, w, c : float32 [M, K], [N, K], [M, N]
    """
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, TILE), float32)
    walk(a, w, c, a_tile, w_tile)


@cuda.jit
def product_padded(a, w, c):
    """Multiply as `product_tiled` does, without bank conflicts.

    Requirements: those of `walk`, and

    - Each request to shared memory takes one wavefront.
    - The block takes at most 8320 bytes of shared memory: one tile is padded, not both.

    Parameters
    ----------
    a, w, c : float32 [M, K], [N, K], [M, N]
    """
    # --- your code: step 3 ---
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, 33), float32)
    walk(a, w, c, a_tile, w_tile)
    # --- end ---


@cuda.jit
def product_columns(a, w, c):
    """Multiply with 32 x 8 threads, each of which owns four outputs of one column of C.

    Requirements: those of `product_padded`, and

    - For each k a thread reads shared memory five times for its four outputs, not eight times.

    Parameters
    ----------
    a, w, c : float32 [M, K], [N, K], [M, N]
    """
    # --- your code: step 4 ---
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, 33), float32)
    totals = cuda.local.array(OUTPUTS, float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    first_m, first_n = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    for j in range(OUTPUTS):
        totals[j] = float32(0)
    for first_k in range(0, a.shape[1], TILE):
        fill(a_tile, a, first_m, first_k)
        fill(w_tile, w, first_n, first_k)
        cuda.syncthreads()
        for i in range(TILE):
            number = w_tile[tx, i]
            for j in range(OUTPUTS):
                totals[j] += a_tile[ty + j * ROWS, i] * number
        cuda.syncthreads()
    for j in range(OUTPUTS):
        m = first_m + ty + j * ROWS
        if m < c.shape[0] and first_n + tx < c.shape[1]:
            c[m, first_n + tx] = totals[j]
    # --- end ---
