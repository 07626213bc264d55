"""A word a thread goes through shared memory: right, and the shuffles have bought nothing."""
# Rejected: step 3, "passes one barrier, and one word a warp through shared memory": requests to shared memory


@cuda.jit
def row_sum_block(x, out):
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    lane, warp = thread % WARP, thread // WARP
    sums = cuda.shared.array(WARPS, float32)
    total = float32(0)
    for column in range(thread, x.shape[1], THREADS):
        total += x[row, column]
    total = warp_sum(total)
    sums[warp] = total
    cuda.syncwarp()
    total = sums[warp]
    cuda.syncthreads()
    if warp == 0:
        part = float32(0)
        if lane < WARPS:
            part = sums[lane]
        part = warp_sum(part)
        if lane == 0:
            out[row] = part
