import numpy as np
from numba import cuda

from llm_numba.simulator import simulate


@cuda.jit
def blur(x, y):
    """Replace each element by the mean of itself and its left and right neighbours."""
    row, column = cuda.grid(2)
    if row < x.shape[0] and 0 < column < x.shape[1] - 1:
        y[row, column] = (x[row, column - 1] + x[row, column] + x[row, column + 1]) / 3


def example():
    """Return grid, block and arguments: what the microscope asks for."""
    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    return (2, 16), (32, 4), (x, np.zeros_like(x))


if __name__ == "__main__":
    report = simulate(blur, *example())
    print(f"{report.global_sectors} sectors; {report.ideal_sectors} side by side")
