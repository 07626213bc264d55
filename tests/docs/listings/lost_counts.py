import numpy as np
from numba import cuda

from llm_numba.simulator import SimulationError, simulate


@cuda.jit
def histogram(values, counts):
    i = cuda.grid(1)
    if i < values.size:
        counts[values[i]] += 1


values = np.random.default_rng(0).integers(0, 4, 256)
counts = np.zeros(4, np.int32)
simulate(histogram, 1, 256, (values, counts), explain=False)
print(f"{counts.sum()} of {values.size} values were counted")
try:
    simulate(histogram, 1, 256, (values, counts))
except SimulationError as fault:
    print(f"{type(fault).__name__}: {fault}")
