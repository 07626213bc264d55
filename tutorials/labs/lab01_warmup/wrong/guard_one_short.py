"""The guard is off by one: the last element has no thread."""
# Rejected: step 1, "computes alpha * x + y for any length": nobody wrote there


@cuda.jit
def saxpy(alpha, x, y, out):
    i = cuda.grid(1)
    if i < out.size - 1:
        out[i] = alpha * x[i] + y[i]
