# Dot product whose blocks add to the result one at a time, under a mutex.
from numba import cuda, float64

TPB = 64


@cuda.jit(device=True)
def lock(mutex):
    while cuda.atomic.compare_and_swap(mutex, 0, 1) != 0:
        cuda.nanosleep(100)
    cuda.threadfence()


@cuda.jit(device=True)
def unlock(mutex):
    cuda.threadfence()
    cuda.atomic.exch(mutex, 0, 0)


@cuda.jit
def dot(mutex, a, b, c):
    cache = cuda.shared.array(TPB, dtype=float64)
    i = cuda.grid(1)
    tid = cuda.threadIdx.x
    cache[tid] = a[i] * b[i] if i < a.size else 0.0
    cuda.syncthreads()
    s = cuda.blockDim.x // 2
    while s != 0:
        if tid < s:
            cache[tid] += cache[tid + s]
        cuda.syncthreads()
        s //= 2
    if tid == 0:
        lock(mutex)
        c[0] += cache[0]
        unlock(mutex)
