"""Each thread takes elements side by side: right, and its warp spreads over many sectors."""
# Rejected: step 3, "lets neighbouring threads touch neighbouring elements": sectors


@cuda.jit
def saxpy_stride(alpha, x, y, out):
    chunk = (out.size + cuda.gridsize(1) - 1) // cuda.gridsize(1)
    begin = cuda.grid(1) * chunk
    for i in range(begin, min(begin + chunk, out.size)):
        out[i] = alpha * x[i] + y[i]
