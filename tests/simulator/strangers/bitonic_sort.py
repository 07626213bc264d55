# Sort a block's worth of keys in dynamic shared memory.
from numba import cuda, int32


@cuda.jit
def bitonic_sort(keys):
    buf = cuda.shared.array(0, int32)
    t = cuda.threadIdx.x
    buf[t] = keys[t]
    cuda.syncthreads()
    k = 2
    while k <= cuda.blockDim.x:
        j = k >> 1
        while j > 0:
            partner = t ^ j
            if partner > t:
                a, b = buf[t], buf[partner]
                if (a > b) == ((t & k) == 0):
                    buf[t], buf[partner] = b, a
            cuda.syncthreads()
            j >>= 1
        k <<= 1
    keys[t] = buf[t]
