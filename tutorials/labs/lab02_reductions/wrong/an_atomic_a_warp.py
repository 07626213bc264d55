"""Every warp adds to the total: right, and four times as many stand in line."""
# Rejected: step 4, "adds once a block": updated atomically


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
        cuda.atomic.add(out, 0, total)
