import math

from numba import cuda


@cuda.jit(device=True)
def clamp(value, low, high):
    return min(max(value, low), high)


@cuda.jit(device=True, inline=True)
def gaussian(distance_squared, sigma):
    return math.exp(-distance_squared / (2.0 * sigma * sigma))
