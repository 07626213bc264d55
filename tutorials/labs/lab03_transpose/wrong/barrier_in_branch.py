"""Threads whose element lies outside the matrix return before the barrier."""
# Rejected: step 1, "turns matrices of any shape": barrier


@cuda.jit
def turn_tile(x, y):
    square = cuda.shared.array((TILE, TILE), float32)
    row, column = corner()
    if column + cuda.threadIdx.x >= x.shape[1]:
        return
    take(x, square)
    cuda.syncthreads()
    give(square, y)
