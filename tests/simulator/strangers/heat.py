# Heat along a rod: all time steps in one launch, the whole grid in step.
from numba import cuda


@cuda.jit
def heat_1d(u, v, alpha, steps):
    i = cuda.grid(1)
    g = cuda.cg.this_grid()
    n = u.shape[0]
    for step in range(steps):
        if step % 2 == 0:
            src, dst = u, v
        else:
            src, dst = v, u
        if 0 < i < n - 1:
            dst[i] = src[i] + alpha * (src[i - 1] - 2.0 * src[i] + src[i + 1])
        elif i == 0 or i == n - 1:
            dst[i] = src[i]
        g.sync()
