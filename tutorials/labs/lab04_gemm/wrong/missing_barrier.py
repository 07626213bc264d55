"""No barrier behind the sum: fast warps fill the tiles while slow ones still read."""
# Rejected: step 2, "multiplies by way of tiles": that orders them


@cuda.jit(device=True)
def walk(a, w, c, a_tile, w_tile):
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    first_m, first_n = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    total = float32(0)
    for first_k in range(0, a.shape[1], TILE):
        fill(a_tile, a, first_m, first_k)
        fill(w_tile, w, first_n, first_k)
        cuda.syncthreads()
        for i in range(TILE):
            total += a_tile[ty, i] * w_tile[tx, i]
    if first_m + ty < c.shape[0] and first_n + tx < c.shape[1]:
        c[first_m + ty, first_n + tx] = total
