"""The last row and the last column are taken for inside when they are one behind."""
# Rejected: step 1, "turns matrices of any shape": OutOfBoundsError


@cuda.jit(device=True)
def take(x, square):
    row, column = corner()
    tx = cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, ROWS):
        if row + r <= x.shape[0] and column + tx < x.shape[1]:
            square[r, tx] = x[row + r, column + tx]
