"""Right, and the warps meet again before anybody goes on."""
# Rejected: step 4, "reads once, writes once, meets once": barriers


@cuda.jit
def layer_norm_wide(x, weight, bias, eps, y):
    counts = cuda.shared.array(WARPS, float32)
    means = cuda.shared.array(WARPS, float32)
    squares_of = cuda.shared.array(WARPS, float32)
    held = cuda.local.array(HELD, float32)
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    hold(x, row, held)
    count, mean, squares = float32(0), float32(0), float32(0)
    for i in range(HELD):
        if thread + i * cuda.blockDim.x < x.shape[1]:
            count, mean, squares = merge(count, mean, squares, float32(1), held[i], float32(0))
    for distance in (16, 8, 4, 2, 1):
        other_count = cuda.shfl_xor_sync(FULL_WARP, count, distance)
        other_mean = cuda.shfl_xor_sync(FULL_WARP, mean, distance)
        other_squares = cuda.shfl_xor_sync(FULL_WARP, squares, distance)
        count, mean, squares = merge(count, mean, squares, other_count, other_mean, other_squares)
    if thread % WARP == 0:
        counts[thread // WARP] = count
        means[thread // WARP] = mean
        squares_of[thread // WARP] = squares
    cuda.syncthreads()
    count, mean, squares = float32(0), float32(0), float32(0)
    for warp in range(WARPS):
        count, mean, squares = merge(
            count, mean, squares, counts[warp], means[warp], squares_of[warp]
        )
    cuda.syncthreads()
    write_normed(held, mean, squares / float32(x.shape[1]), weight, bias, eps, row, y)
