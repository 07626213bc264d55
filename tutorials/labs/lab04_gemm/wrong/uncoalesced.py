"""Right, and the lanes of a warp fill the tiles down a column."""
# Rejected: step 2, "loads each number once, along rows": sectors
# Too slow: step 4


@cuda.jit(device=True)
def fill(tile, source, first_row, first_k):
    r = cuda.threadIdx.x
    for i in range(cuda.threadIdx.y, TILE, cuda.blockDim.y):
        inside = first_row + r < source.shape[0] and first_k + i < source.shape[1]
        tile[r, i] = source[first_row + r, first_k + i] if inside else float32(0)
