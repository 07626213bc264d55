import numpy as np
from numba import cuda, float32
from numba.cuda.types import float16

from llm_numba.kernels.ptx import load16
from llm_numba.simulator import SimulationError, simulate

ROWS, COLUMNS = 32, 64


def read_rows(pitch):
    @cuda.jit
    def kernel(x, y):
        """Each lane sums the first 16 bytes of a row of its own, in one access."""
        tile = cuda.shared.array((ROWS, pitch), float16)
        lane = cuda.threadIdx.x
        for row in range(ROWS):
            tile[row, lane] = x[row, lane]
            tile[row, lane + 32] = x[row, lane + 32]
        cuda.syncwarp()
        total = float32(0)
        for value in load16(tile, lane * pitch):
            total += value
        y[lane] = total

    return kernel


x = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float16)
for padding in (0, 1, 8):
    y = np.empty(ROWS, np.float32)
    try:
        report = simulate(read_rows(COLUMNS + padding), 1, 32, (x, y))
    except SimulationError as fault:
        print(f"{padding} halves behind each row: {fault.cause.partition(': ')[2]}")
    else:
        assert np.allclose(y, x[:, :8].astype(np.float32).sum(axis=1), atol=1e-5)
        ways = max(line.max_bank_ways for line in report.lines)
        print(f"{padding} halves behind each row: at most {ways} ways")
