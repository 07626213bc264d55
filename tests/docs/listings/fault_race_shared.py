import numpy as np
from numba import cuda, float32

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def reverse(x):
    tile = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    tile[t] = x[t]
    x[t] = tile[63 - t]


try:
    simulate(reverse, 1, 64, (np.arange(64, dtype=np.float32),))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
