from numba import cuda


@cuda.jit
def multiply(x, factor):
    # Right, but each thread takes its elements side by side, so lanes stand apart.
    count = (x.size + cuda.gridsize(1) - 1) // cuda.gridsize(1)
    first = cuda.grid(1) * count
    for i in range(first, min(first + count, x.size)):
        x[i] *= factor
