"""Right, without padding, and without a swizzle: 32 lanes want one bank."""
# Rejected: step 4, "has no bank conflicts": of one bank
# Raced: step 4


@cuda.jit
def turn_swizzled(x, y):
    square = cuda.shared.array((TILE, TILE), float32)
    take(x, square)
    cuda.syncthreads()
    give(square, y)
