import numpy as np
from numba import cuda

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def square_root(x):
    i = cuda.grid(1)
    if i < x.size:
        assert x[i] >= 0, "x has a negative entry"
        x[i] = x[i] ** 0.5


try:
    simulate(square_root, 1, 32, (np.arange(-2, 30, dtype=np.float32),))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
