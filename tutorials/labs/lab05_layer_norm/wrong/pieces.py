"""Right, and each lane has a piece of the row for itself: neighbours read far apart."""
# Rejected: step 1, "reads rows along rows, twice at most": sectors


@cuda.jit
def statistics(x, mean, variance):
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        N = x.shape[1]
        length = (N + WARP - 1) // WARP
        begin = cuda.threadIdx.x * length
        end = min(begin + length, N)
        share = float32(0)
        for n in range(begin, end):
            share += x[row, n]
        centre = warp_sum(share) / float32(N)
        share = float32(0)
        for n in range(begin, end):
            distance = x[row, n] - centre
            share += distance * distance
        squares = warp_sum(share)
        if cuda.threadIdx.x == 0:
            mean[row] = centre
            variance[row] = squares / float32(N)
