"""Rows of halves are padded by one half, which is half a word."""
# Rejected: step 3, "turns halves without bank conflicts": of one bank


@cuda.jit
def turn_halves(x, y):
    square = cuda.shared.array((TILE, 33), x.dtype)
    take(x, square)
    cuda.syncthreads()
    give(square, y)
