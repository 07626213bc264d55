"""Right, and the row is read from memory again when it is normalised."""
# Rejected: step 2, "reads once and writes once": read once

import math

from numba import cuda, float32

WARP = 32
FULL_WARP = 0xFFFFFFFF
ROWS = 4  # rows of a block in steps 1 to 3
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
        hold(x, row, held)
        write_normed(held, mean, variance, weight, bias, eps, row, y)
