"""No barrier between writing the tile and reading it."""
# Rejected: step 1, "turns matrices of any shape": that orders them


@cuda.jit
def turn_tile(x, y):
    square = cuda.shared.array((TILE, TILE), float32)
    take(x, square)
    give(square, y)
