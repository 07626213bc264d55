import numpy as np
from numba import cuda

from llm_numba.simulator import simulate


@cuda.jit
def count_up(counter, seen):
    i = cuda.grid(1)
    seen[i] = cuda.atomic.add(counter, 0, 1)


def order(**how):
    counter, seen = np.zeros(1, np.int32), np.empty(8, np.int32)
    simulate(count_up, grid=2, block=4, args=(counter, seen), **how)
    return seen


print("ordered:       ", order())
for seed in (0, 1, 0):
    print(f"random, seed {seed}:", order(schedule="random", seed=seed))
