import numpy as np
from numba import cuda

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def scale(x, factor):
    i = cuda.grid(1)
    x[i] *= factor


try:
    simulate(scale, 4, 256, (np.ones(1000, np.float32), np.float32(3)))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
