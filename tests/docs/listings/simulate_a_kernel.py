import numpy as np
from numba import cuda

from llm_numba.simulator import simulate


@cuda.jit
def double(x, y):
    i = cuda.grid(1)
    if i < y.size:
        y[i] = 2 * x[i]


x, y = np.arange(1000.0, dtype=np.float32), np.empty(1000, np.float32)
report = simulate(double, grid=4, block=256, args=(x, y))

assert (y == 2 * x).all()
print(f"{report.global_requests} requests moved {report.global_sectors} sectors of 32 bytes")
print(f"{report.ideal_sectors} would do; {report.divergent} branch split a warp")
