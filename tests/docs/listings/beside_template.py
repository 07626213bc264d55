import numpy as np
from numba import cuda, float32

from llm_numba.kernels.ptx import load16
from llm_numba.runtime import launch, to_device


def scaled(columns):
    """A kernel for rows of that length."""

    @cuda.jit
    def kernel(x, factor, y):
        t = cuda.grid(1)
        for k in range(columns // 4):
            at = t * columns + 4 * k
            values = load16(x, at)
            for j in range(4):
                y[t, 4 * k + j] = values[j] * factor

    return kernel


x = np.ones((32, 8), np.float32)
x, y = to_device(x, "sim"), to_device(x, "sim")
launch(scaled(8), 1, 32, (x, float32(0.5), y))

print(np.asarray(y).sum())
