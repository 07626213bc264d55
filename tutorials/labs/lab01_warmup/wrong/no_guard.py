"""No guard: threads past the end read and write outside the arrays."""
# Rejected: step 1, "computes alpha * x + y for any length": which has length


@cuda.jit
def saxpy(alpha, x, y, out):
    i = cuda.grid(1)
    out[i] = alpha * x[i] + y[i]
