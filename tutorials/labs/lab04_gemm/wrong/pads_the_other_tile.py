"""The tile of A is padded, whose reads were broadcasts, and that of W is not."""
# Rejected: step 3, "has no bank conflicts": of one bank

from numba import cuda, float32

TILE = 32


@cuda.jit
def product_plain(a, w, c):
    m = cuda.blockIdx.y * TILE + cuda.threadIdx.y
    n = cuda.blockIdx.x * TILE + cuda.threadIdx.x
    if m < c.shape[0] and n < c.shape[1]:
        total = float32(0)
        for k in range(a.shape[1]):
            total += a[m, k] * w[n, k]
        c[m, n] = total


@cuda.jit(device=True)
def fill(tile, source, first_row, first_k):
    k = first_k + cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, cuda.blockDim.y):
        inside = first_row + r < source.shape[0] and k < source.shape[1]
        tile[r, cuda.threadIdx.x] = source[first_row + r, k] if inside else float32(0)


@cuda.jit
def fill_and_copy(source, first_row, first_k, copy):
    tile = cuda.shared.array((TILE, TILE), float32)
    fill(tile, source, first_row, first_k)
    cuda.syncthreads()
    for r in range(cuda.threadIdx.y, TILE, cuda.blockDim.y):
        copy[r, cuda.threadIdx.x] = tile[r, cuda.threadIdx.x]


@cuda.jit(device=True)
def walk(a, w, c, a_tile, w_tile):
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


@cuda.jit
def product_tiled(a, w, c):
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, TILE), float32)
    walk(a, w, c, a_tile, w_tile)


@cuda.jit
def product_padded(a, w, c):
    a_tile = cuda.shared.array((TILE, 33), float32)
    w_tile = cuda.shared.array((TILE, TILE), float32)
    walk(a, w, c, a_tile, w_tile)
