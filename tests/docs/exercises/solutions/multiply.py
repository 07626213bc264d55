from numba import cuda


@cuda.jit
def multiply(x, factor):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        x[i] *= factor
