"""Right, and the lanes of a warp write a column of y."""
# Rejected: step 1, "touches global memory along rows": sectors


@cuda.jit(device=True)
def give(square, y):
    row, column = corner()
    tx = cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, ROWS):
        if column + tx < y.shape[0] and row + r < y.shape[1]:
            y[column + tx, row + r] = square[r, tx]
