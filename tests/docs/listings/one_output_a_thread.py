import numpy as np

from llm_numba.kernels.gemm import gemm_naive
from llm_numba.simulator import SimulationError, simulate

a = w = np.ones((128, 32), np.float32)
c = np.empty((128, 128), np.float32)
nothing = np.empty(0, np.float32), np.empty((0, 0), np.float32)  # neither bias nor residual
try:
    simulate(gemm_naive, (1, 1), (128, 128), (a, w, *nothing, 0, c))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
