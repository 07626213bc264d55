import numpy as np
from numba import cuda

from llm_numba.simulator import simulate

ALL = 0xFFFFFFFF


@cuda.jit
def with_shfl_down(x, y):
    value = x[cuda.threadIdx.x]
    for distance in (16, 8, 4, 2, 1):
        value = max(value, cuda.shfl_down_sync(ALL, value, distance))
    y[cuda.threadIdx.x] = cuda.shfl_sync(ALL, value, 0)  # only lane 0 has it


@cuda.jit
def with_shfl_xor(x, y):
    value = x[cuda.threadIdx.x]
    for distance in (16, 8, 4, 2, 1):
        value = max(value, cuda.shfl_xor_sync(ALL, value, distance))
    y[cuda.threadIdx.x] = value


x = np.random.default_rng(0).normal(size=32).astype(np.float32)
for kernel in (with_shfl_down, with_shfl_xor):
    y = np.empty_like(x)
    simulate(kernel, 1, 32, (x, y))
    right = "has" if (y == x.max()).all() else "has not"
    print(f"{kernel.__name__}: every lane {right} the maximum")
