"""One more row in place of one more word in each row."""
# Rejected: step 2, "has no bank conflicts": of one bank


@cuda.jit
def turn_padded(x, y):
    square = cuda.shared.array((33, TILE), float32)
    take(x, square)
    cuda.syncthreads()
    give(square, y)
