"""One element of y is loaded twice by each thread."""
# Rejected: step 1, "reads and writes each element once": loaded


@cuda.jit
def saxpy(alpha, x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        total = y[i]
        if total != 0:
            total = alpha * x[i] + y[i]
        else:
            total = alpha * x[i]
        out[i] = total
