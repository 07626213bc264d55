"""The way out asks whether an element is inside x, in the order of the way in."""
# Rejected: step 1, "turns matrices of any shape": nobody has written


@cuda.jit(device=True)
def give(square, y):
    row, column = corner()
    tx = cuda.threadIdx.x
    for c in range(cuda.threadIdx.y, TILE, ROWS):
        if column + tx < y.shape[0] and row + c < y.shape[1]:
            y[column + c, row + tx] = square[tx, c]
