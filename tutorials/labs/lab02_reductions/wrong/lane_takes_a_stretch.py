"""Each lane reads a stretch of its own: right, and a sector for each lane."""
# Rejected: step 2, "reads each element once, side by side": sectors


@cuda.jit
def row_sum_warp(x, out):
    lane, warp = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    row = cuda.blockIdx.x * WARPS + warp
    if row < x.shape[0]:
        total = float32(0)
        stretch = (x.shape[1] + WARP - 1) // WARP
        for column in range(lane * stretch, min((lane + 1) * stretch, x.shape[1])):
            total += x[row, column]
        total = warp_sum(total)
        if lane == 0:
            out[row] = total
