import numpy as np
from numba import cuda, float32

from llm_numba.simulator import simulate


@cuda.jit
def reverse(x):
    tile = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    tile[t] = x[t]
    x[t] = tile[31 - t]  # a cuda.syncwarp() is missing before this line


def is_right(**how):
    x = np.arange(32, dtype=np.float32)
    simulate(reverse, 1, 32, (x,), explain=False, check=False, **how)
    return bool((x == np.arange(32)[::-1]).all())


print("in order, nothing checked: right" if is_right() else "in order, nothing checked: wrong")
wrong = sum(not is_right(schedule="random", seed=seed) for seed in range(20))
print(f"in random order: wrong for {wrong} of 20 seeds")
