import numpy as np
from numba import cuda, float32

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def shift(x):
    tile = cuda.shared.array(128, float32)
    t = cuda.threadIdx.x
    if t >= x.size:
        return
    tile[t] = x[t]
    cuda.syncthreads()
    x[t] = tile[t - 1] if t > 0 else tile[x.size - 1]


try:
    simulate(shift, 1, 128, (np.arange(100, dtype=np.float32),))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
