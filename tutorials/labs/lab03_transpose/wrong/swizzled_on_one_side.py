"""Elements are put down swizzled and picked up as if they were not."""
# Rejected: step 4, "has no bank conflicts": wrong


@cuda.jit
def turn_swizzled(x, y):
    square = cuda.shared.array((TILE, TILE), float32)
    row, column = corner()
    tx = cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, ROWS):
        if row + r < x.shape[0] and column + tx < x.shape[1]:
            square[r, tx ^ r] = x[row + r, column + tx]
    cuda.syncthreads()
    for c in range(cuda.threadIdx.y, TILE, ROWS):
        if column + c < y.shape[0] and row + tx < y.shape[1]:
            y[column + c, row + tx] = square[tx, c]
