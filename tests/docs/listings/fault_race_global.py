import numpy as np
from numba import cuda

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def smooth(x):
    i = cuda.grid(1)
    if 0 < i < x.size:
        x[i] = (x[i - 1] + x[i]) / 2


try:
    simulate(smooth, 4, 64, (np.arange(256, dtype=np.float32),))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
