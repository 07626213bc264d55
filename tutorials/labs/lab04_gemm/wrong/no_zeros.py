"""Beyond the edge nothing is written to the tile, and what is there is added."""
# Rejected: step 2, "multiplies by way of tiles": nobody has written


@cuda.jit(device=True)
def fill(tile, source, first_row, first_k):
    k = first_k + cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, cuda.blockDim.y):
        if first_row + r < source.shape[0] and k < source.shape[1]:
            tile[r, cuda.threadIdx.x] = source[first_row + r, k]
