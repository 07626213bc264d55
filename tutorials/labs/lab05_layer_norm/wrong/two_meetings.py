"""Right, and the warps meet again before anybody goes on."""
# Rejected: step 4, "reads once, writes once, meets once": barriers

import math

from numba import cuda, float32

WARP = 32
FULL_WARP = 0xFFFFFFFF
ROWS = 4  # rows of a block in steps 1 to 3
WARPS = 4  # warps of a block in step 4
HELD = 8  # numbers of a row that a thread can hold


@cuda.jit(device=True)
def warp_sum(value):
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(FULL_WARP, value, distance)
    return value


@cuda.jit
def statistics(x, mean, variance):
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        N = x.shape[1]
        share = float32(0)
        for n in range(cuda.threadIdx.x, N, WARP):
            share += x[row, n]
        centre = warp_sum(share) / float32(N)
        share = float32(0)
        for n in range(cuda.threadIdx.x, N, WARP):
            distance = x[row, n] - centre
            share += distance * distance
        squares = warp_sum(share)
        if cuda.threadIdx.x == 0:
            mean[row] = centre
            variance[row] = squares / float32(N)


@cuda.jit(device=True)
def hold(x, row, held):
    for i in range(HELD):
        n = cuda.threadIdx.x + i * cuda.blockDim.x
        if n < x.shape[1]:
            held[i] = x[row, n]


@cuda.jit(device=True)
def held_statistics(held, N):
    share = float32(0)
    for i in range(HELD):
        if cuda.threadIdx.x + i * WARP < N:
            share += held[i]
    mean = warp_sum(share) / float32(N)
    share = float32(0)
    for i in range(HELD):
        if cuda.threadIdx.x + i * WARP < N:
            share += (held[i] - mean) * (held[i] - mean)
    return mean, warp_sum(share) / float32(N)


@cuda.jit(device=True)
def write_normed(held, mean, variance, weight, bias, eps, row, y):
    inverse = float32(1) / math.sqrt(variance + eps)
    for i in range(HELD):
        n = cuda.threadIdx.x + i * cuda.blockDim.x
        if n < y.shape[1]:
            y[row, n] = (held[i] - mean) * inverse * weight[n] + bias[n]


@cuda.jit
def layer_norm(x, weight, bias, eps, y):
    held = cuda.local.array(HELD, float32)
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        hold(x, row, held)
        mean, variance = held_statistics(held, x.shape[1])
        write_normed(held, mean, variance, weight, bias, eps, row, y)


@cuda.jit
def add_layer_norm(x, residual, weight, bias, eps, total, y):
    held = cuda.local.array(HELD, float32)
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        hold(x, row, held)
        for i in range(HELD):
            n = cuda.threadIdx.x + i * WARP
            if n < x.shape[1]:
                held[i] += residual[row, n]
                total[row, n] = held[i]
        mean, variance = held_statistics(held, x.shape[1])
        write_normed(held, mean, variance, weight, bias, eps, row, y)


@cuda.jit(device=True)
def merge(count_a, mean_a, squares_a, count_b, mean_b, squares_b):
    count = count_a + count_b
    share = count_b / count if count > float32(0) else float32(0)
    distance = mean_b - mean_a
    mean = mean_a + distance * share
    squares = squares_a + squares_b + distance * distance * count_a * share
    return count, mean, squares


@cuda.jit
def merge_pairs(a, b, merged):
    i = cuda.grid(1)
    if i < merged.shape[1]:
        merged[0, i], merged[1, i], merged[2, i] = merge(
            a[0, i], a[1, i], a[2, i], b[0, i], b[1, i], b[2, i]
        )


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
