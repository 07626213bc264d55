"""Right, and the number of W is read from shared memory for each of the four outputs."""
# Rejected: step 4, "reads shared memory five times for four outputs": requests to shared memory
# Raced: step 4


@cuda.jit
def product_columns(a, w, c):
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, 33), float32)
    totals = cuda.local.array(OUTPUTS, float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    first_m, first_n = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    for j in range(OUTPUTS):
        totals[j] = float32(0)
    for first_k in range(0, a.shape[1], TILE):
        fill(a_tile, a, first_m, first_k)
        fill(w_tile, w, first_n, first_k)
        cuda.syncthreads()
        for i in range(TILE):
            for j in range(OUTPUTS):
                totals[j] += a_tile[ty + j * ROWS, i] * w_tile[tx, i]
        cuda.syncthreads()
    for j in range(OUTPUTS):
        m = first_m + ty + j * ROWS
        if m < c.shape[0] and first_n + tx < c.shape[1]:
            c[m, first_n + tx] = totals[j]
