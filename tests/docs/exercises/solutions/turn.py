from numba import cuda, float32


@cuda.jit
def turn(x, y):
    # Row r begins r words later, and goes on at the front: a column meets every bank once.
    tile = cuda.shared.array((32, 32), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.blockIdx.x * 32, cuda.blockIdx.y * 32
    if row + ty < x.shape[0] and column + tx < x.shape[1]:
        tile[ty, (tx + ty) % 32] = x[row + ty, column + tx]
    cuda.syncthreads()
    if column + ty < x.shape[1] and row + tx < x.shape[0]:
        y[column + ty, row + tx] = tile[tx, (ty + tx) % 32]
