import numpy as np
from numba import cuda, float32

from llm_numba.simulator import simulate

ALL = 0xFFFFFFFF


@cuda.jit
def row_sum(x, y):
    """One block of 256 threads a row."""
    parts = cuda.shared.array(8, float32)
    t = cuda.threadIdx.x
    total = float32(0)
    for j in range(t, x.shape[1], 256):
        total += x[cuda.blockIdx.x, j]
    for d in (16, 8, 4, 2, 1):
        total += cuda.shfl_xor_sync(ALL, total, d)
    if t % 32 == 0:
        parts[t // 32] = total
    cuda.syncthreads()
    if t == 0:
        total = float32(0)
        for w in range(8):
            total += parts[w]
        y[cuda.blockIdx.x] = total


x = np.ones((3, 1000), np.float32)
y = np.empty(3, np.float32)
report = simulate(row_sum, 3, 256, (x, y))

print(y, report.global_sectors, "sectors")
