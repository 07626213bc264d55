import math

from numba import cuda, float32, int32


@cuda.jit
def warp_argmax(x, out):
    lane = cuda.threadIdx.x
    value, place = float32(-math.inf), int32(lane)
    if lane < x.size:
        value = x[lane]
    for distance in (16, 8, 4, 2, 1):
        other = cuda.shfl_xor_sync(0xFFFFFFFF, value, distance)
        its_place = cuda.shfl_xor_sync(0xFFFFFFFF, place, distance)
        if other > value or (other == value and its_place < place):
            value, place = other, its_place
    if lane == 0:
        out[0] = place
