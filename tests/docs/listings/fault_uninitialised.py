import numpy as np
from numba import cuda, int32

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def count(values, counts):
    mine = cuda.shared.array(16, int32)
    t = cuda.threadIdx.x
    cuda.atomic.add(mine, values[t], 1)
    cuda.syncthreads()
    if t < 16:
        cuda.atomic.add(counts, t, mine[t])


try:
    values = np.arange(64, dtype=np.int32) % 16
    simulate(count, 1, 64, (values, np.zeros(16, np.int32)))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
