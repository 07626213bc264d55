"""The tile of A is padded, whose reads were broadcasts, and that of W is not."""
# Rejected: step 3, "has no bank conflicts": of one bank


@cuda.jit
def product_padded(a, w, c):
    a_tile = cuda.shared.array((TILE, 33), float32)
    w_tile = cuda.shared.array((TILE, TILE), float32)
    walk(a, w, c, a_tile, w_tile)
