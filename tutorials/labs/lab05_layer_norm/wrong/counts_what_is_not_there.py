"""Lanes without a number count a zero, and its distance from the mean."""
# Rejected: step 2, "normalises": wrong


@cuda.jit(device=True)
def hold(x, row, held):
    for i in range(HELD):
        n = cuda.threadIdx.x + i * cuda.blockDim.x
        held[i] = x[row, n] if n < x.shape[1] else float32(0)


@cuda.jit(device=True)
def held_statistics(held, N):
    share = float32(0)
    for i in range(HELD):
        if cuda.threadIdx.x + i * WARP < N:
            share += held[i]
    mean = warp_sum(share) / float32(N)
    share = float32(0)
    for i in range(HELD):
        share += (held[i] - mean) * (held[i] - mean)
    return mean, warp_sum(share) / float32(N)
