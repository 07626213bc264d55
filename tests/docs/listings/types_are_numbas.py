import numpy as np
from numba import cuda, float32, int32

from llm_numba.simulator import simulate


@cuda.jit
def types(out, x, big):
    out[0] = x[0] + 0.1  # 0.1 is float64, so the sum is
    out[1] = x[0] + float32(0.1)
    out[2] = big[0] + big[0]  # int32 + int32 is int64
    out[3] = int32(big[0] + big[0])  # which wraps where it is narrowed


out = np.zeros(4)
simulate(types, 1, 1, (out, np.array([1], np.float32), np.array([2**31 - 1], np.int32)))
for value in out:
    print(f"{value:.17g}")
