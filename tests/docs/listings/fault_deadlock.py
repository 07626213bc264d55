import numpy as np
from numba import cuda

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def wait_for_all(arrived):
    if cuda.threadIdx.x == 0:
        while cuda.atomic.add(arrived, 0, 0) < cuda.gridDim.x:
            cuda.nanosleep(100)
        cuda.atomic.add(arrived, 0, 1)


try:
    simulate(wait_for_all, 4, 32, (np.zeros(1, np.int32),))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
