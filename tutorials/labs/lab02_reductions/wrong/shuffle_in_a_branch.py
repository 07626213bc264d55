"""Lanes without an element do not come to the shuffle that waits for them."""
# Rejected: step 2, "adds up rows of any length": BarrierDivergenceError


@cuda.jit
def row_sum_warp(x, out):
    lane, warp = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    row = cuda.blockIdx.x * WARPS + warp
    if row < x.shape[0]:
        total = float32(0)
        for column in range(lane, x.shape[1], WARP):
            total += x[row, column]
        if lane < x.shape[1]:
            total = warp_sum(total)
        if lane == 0:
            out[row] = total
