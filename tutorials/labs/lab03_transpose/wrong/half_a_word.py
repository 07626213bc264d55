"""Rows of halves are padded by one half, which is half a word."""
# Rejected: step 3, "turns halves without bank conflicts": of one bank

from numba import cuda, float32

TILE = 32
ROWS = 8  # rows of threads in a block: each thread moves TILE // ROWS elements


@cuda.jit(device=True)
def corner():
    return cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE


@cuda.jit(device=True)
def take(x, square):
    row, column = corner()
    tx = cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, ROWS):
        if row + r < x.shape[0] and column + tx < x.shape[1]:
            square[r, tx] = x[row + r, column + tx]


@cuda.jit(device=True)
def give(square, y):
    row, column = corner()
    tx = cuda.threadIdx.x
    for c in range(cuda.threadIdx.y, TILE, ROWS):
        if column + c < y.shape[0] and row + tx < y.shape[1]:
            y[column + c, row + tx] = square[tx, c]


@cuda.jit
def turn_tile(x, y):
    square = cuda.shared.array((TILE, TILE), float32)
    take(x, square)
    cuda.syncthreads()
    give(square, y)


@cuda.jit
def turn_padded(x, y):
    square = cuda.shared.array((TILE, 33), float32)
    take(x, square)
    cuda.syncthreads()
    give(square, y)


@cuda.jit
def turn_halves(x, y):
    square = cuda.shared.array((TILE, 33), x.dtype)
    take(x, square)
    cuda.syncthreads()
    give(square, y)
