import linecache

import numpy as np
from numba import cuda, float32

from llm_numba.simulator import simulate


@cuda.jit
def columns(x, y):
    """Give each thread a row of a tile; even ones are negated."""
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

print(f"{report.shared_bytes} bytes of shared memory, {report.barriers} barrier")
for line in report.lines:
    print(f"\nline {line.line}: {linecache.getline(line.file, line.line).strip()}")
    print(f"  global: {line.global_requests} requests, {line.global_sectors} sectors, "
          f"ideally {line.ideal_sectors}")  # fmt: skip
    print(f"  shared: {line.shared_requests} requests, {line.shared_wavefronts} wavefronts, "
          f"ideally {line.ideal_wavefronts}; {line.max_bank_ways} ways")  # fmt: skip
    print(f"  divergent: {line.divergent}")

worst = report.lines[1].worst_shared
print(f"\nthe worst shared request of line {report.lines[1].line}: a {worst.kind}")
print("byte addresses of lanes 0 to 3:", worst.addresses[:4])
