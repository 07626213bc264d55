"""Blocks add to the total without an atomic operation: one loses what the other added."""
# Rejected: step 4, "adds up a vector of any length with any grid": RaceError


@cuda.jit
def vector_sum(x, out):
    thread = cuda.threadIdx.x
    lane, warp = thread % WARP, thread // WARP
    sums = cuda.shared.array(WARPS, float32)
    total = float32(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        total += x[i]
    total = warp_sum(total)
    if lane == 0:
        sums[warp] = total
    cuda.syncthreads()
    if warp == 0:
        part = float32(0)
        if lane < WARPS:
            part = sums[lane]
        part = warp_sum(part)
        if lane == 0:
            out[0] += part
