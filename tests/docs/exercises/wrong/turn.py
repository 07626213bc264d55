from numba import cuda, float32


@cuda.jit
def turn(x, y):
    # Right, but every column of the tile lies in one bank.
    tile = cuda.shared.array((32, 32), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.blockIdx.x * 32, cuda.blockIdx.y * 32
    if row + ty < x.shape[0] and column + tx < x.shape[1]:
        tile[ty, tx] = x[row + ty, column + tx]
    cuda.syncthreads()
    if column + ty < x.shape[1] and row + tx < x.shape[0]:
        y[column + ty, row + tx] = tile[tx, ty]
