import numpy as np
from numba import cuda

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def name_the_largest(x, out):
    i = cuda.grid(1)
    out[i] = sorted(x)[-1]


try:
    simulate(name_the_largest, 1, 32, (np.ones(32, np.float32), np.ones(32, np.float32)))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
