import numpy as np
from numba import cuda

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def sum_of_positive(x, total):
    value = x[cuda.threadIdx.x]
    if value > 0:
        for distance in (16, 8, 4, 2, 1):
            value += cuda.shfl_xor_sync(0xFFFFFFFF, value, distance)
        total[0] = value


try:
    x = np.arange(-4, 28, dtype=np.float32)
    simulate(sum_of_positive, 1, 32, (x, np.zeros(1, np.float32)))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
