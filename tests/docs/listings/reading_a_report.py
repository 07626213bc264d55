import linecache
from dataclasses import replace

import numpy as np
from numba import cuda, float32

from llm_numba.simulator import simulate


@cuda.jit
def columns(x, y):
    """Give each thread a column of a tile; the even ones are negated."""
    tile = cuda.shared.array((32, 32), float32)
    t = cuda.threadIdx.x
    for row in range(32):
        tile[row, t] = x[row, t]
    cuda.syncthreads()
    for k in range(32):
        value = tile[t, k]
        if t % 2 == 0:
            value = -value
        y[t, k] = value


x = np.ones((32, 32), np.float32)
report = simulate(columns, grid=1, block=32, args=(x, np.empty_like(x)))
print(f"{report.shared_bytes} bytes of shared memory, {report.barriers} barrier\n")
for line in report.lines:
    print(f"line {line.line}: {linecache.getline(line.file, line.line).strip()}")
    for name, value in vars(replace(line, worst_global=None, worst_shared=None)).items():
        if isinstance(value, int) and value and name != "line":
            print(f"    {name:17} {value}")
worst = report.lines[1].worst_shared
print(f"\nthe worst request of line {report.lines[1].line}: {worst.kind}, {worst.ways} ways")
print("byte addresses of lanes 0 to 3:", worst.addresses[:4])
