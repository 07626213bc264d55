import numpy as np
from numba import cuda

from llm_numba.simulator import simulate


def ways(dtype, columns):
    """Longest queue at a bank, of a warp that reads each column of a tile in turn."""

    @cuda.jit
    def read_columns(x, y):
        tile = cuda.shared.array((32, columns), x.dtype)
        t = cuda.threadIdx.x
        for row in range(32):
            tile[row, t] = x[row, t]
        cuda.syncwarp()
        for column in range(32):
            y[column, t] = tile[t, column]

    x = np.ones((32, 32), dtype)
    report = simulate(read_columns, 1, 32, (x, np.empty_like(x)))
    return max(line.max_bank_ways for line in report.lines)


for dtype in (np.float32, np.float16):
    for padding in (0, 1, 2):
        found = ways(dtype, 32 + padding)
        print(f"{dtype.__name__}, {padding} elements behind each row: at most {found} ways")
