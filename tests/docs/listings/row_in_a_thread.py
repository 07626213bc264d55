import numpy as np
from numba import cuda, float32
from numba.cuda.types import float16

from llm_numba.kernels.basics_occupancy import MAX_REGISTERS
from llm_numba.simulator import simulate

HIDDEN = 4096


@cuda.jit
def mean_of_row(x, y):
    token = cuda.local.array(HIDDEN, float16)
    row = cuda.grid(1)
    total = float32(0)
    for j in range(HIDDEN):
        token[j] = x[row, j]
        total += float32(token[j])
    y[row] = total / float32(HIDDEN)


x = np.ones((32, HIDDEN), np.float16)
report = simulate(mean_of_row, 1, 32, (x, np.empty(32, np.float32)))
print(f"a thread wants {report.local_bytes:,} bytes and has {4 * MAX_REGISTERS:,} in registers")
wasted = report.global_sectors / report.ideal_sectors
print(f"and the warp moves {wasted:.0f} times the sectors that it needs")
