# Sum of an array: grid-stride loop, shuffles, one atomic a block.
import numba
from numba import cuda

WARP_SIZE = 32


@cuda.jit(device=True)
def warp_reduce_sum(val):
    offset = WARP_SIZE // 2
    while offset > 0:
        val += cuda.shfl_down_sync(0xFFFFFFFF, val, offset)
        offset //= 2
    return val


@cuda.jit(device=True)
def block_reduce_sum(val):
    shared = cuda.shared.array(WARP_SIZE, numba.float32)
    lane = cuda.threadIdx.x % cuda.warpsize
    wid = cuda.threadIdx.x // cuda.warpsize
    val = warp_reduce_sum(val)
    if lane == 0:
        shared[wid] = val
    cuda.syncthreads()
    val = shared[lane] if cuda.threadIdx.x < cuda.blockDim.x // cuda.warpsize else 0.0
    if wid == 0:
        val = warp_reduce_sum(val)
    return val


@cuda.jit
def reduce_sum(array, result):
    total = numba.float32(0)
    for i in range(cuda.grid(1), array.size, cuda.gridsize(1)):
        total += array[i]
    total = block_reduce_sum(total)
    if cuda.threadIdx.x == 0:
        cuda.atomic.add(result, 0, total)
