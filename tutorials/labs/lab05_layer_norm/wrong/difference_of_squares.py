"""The variance is the mean of the squares minus the square of the mean."""
# Rejected: step 1, "is exact where the mean is large": variance


@cuda.jit
def statistics(x, mean, variance):
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        N = x.shape[1]
        share, squares = float32(0), float32(0)
        for n in range(cuda.threadIdx.x, N, WARP):
            share += x[row, n]
            squares += x[row, n] * x[row, n]
        centre = warp_sum(share) / float32(N)
        squares = warp_sum(squares) - centre * centre * float32(N)
        if cuda.threadIdx.x == 0:
            mean[row] = centre
            variance[row] = squares / float32(N)
