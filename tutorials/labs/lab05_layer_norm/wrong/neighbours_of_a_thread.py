"""Right, and each thread takes eight neighbours: the lanes of a warp are far apart."""
# Rejected: step 4, "reads once, writes once, meets once": sectors
# Too slow: step 4


@cuda.jit
def layer_norm_wide(x, weight, bias, eps, y):
    counts = cuda.shared.array(WARPS, float32)
    means = cuda.shared.array(WARPS, float32)
    squares_of = cuda.shared.array(WARPS, float32)
    held = cuda.local.array(HELD, float32)
    row, first = cuda.blockIdx.x, cuda.threadIdx.x * HELD
    warp_of_thread, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
    count, mean, squares = float32(0), float32(0), float32(0)
    for i in range(min(HELD, x.shape[1] - first)):
        held[i] = x[row, first + i]
        count, mean, squares = merge(count, mean, squares, float32(1), held[i], float32(0))
    for distance in (16, 8, 4, 2, 1):
        other_count = cuda.shfl_xor_sync(FULL_WARP, count, distance)
        other_mean = cuda.shfl_xor_sync(FULL_WARP, mean, distance)
        other_squares = cuda.shfl_xor_sync(FULL_WARP, squares, distance)
        count, mean, squares = merge(count, mean, squares, other_count, other_mean, other_squares)
    if lane == 0:
        counts[warp_of_thread] = count
        means[warp_of_thread] = mean
        squares_of[warp_of_thread] = squares
    cuda.syncthreads()
    count, mean, squares = float32(0), float32(0), float32(0)
    for warp in range(WARPS):
        count, mean, squares = merge(
            count, mean, squares, counts[warp], means[warp], squares_of[warp]
        )
    inverse = float32(1) / math.sqrt(squares / float32(x.shape[1]) + eps)
    for i in range(min(HELD, x.shape[1] - first)):
        n = first + i
        y[row, n] = (held[i] - mean) * inverse * weight[n] + bias[n]
