"""Right, free of conflicts and of padding, and the lanes of a warp write a column of y."""
# Rejected: step 4, "has no bank conflicts": sectors
# Too slow: step 4


@cuda.jit
def turn_swizzled(x, y):
    square = cuda.shared.array((TILE, TILE), float32)
    take(x, square)
    cuda.syncthreads()
    row, column = corner()
    tx = cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, ROWS):
        if column + tx < y.shape[0] and row + r < y.shape[1]:
            y[column + tx, row + r] = square[r, tx]
