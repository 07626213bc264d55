"""The stride is the size of a block: blocks do each other's work."""
# Rejected: step 3, "lets neighbouring threads touch neighbouring elements": sectors


@cuda.jit
def saxpy_stride(alpha, x, y, out):
    for i in range(cuda.grid(1), out.size, cuda.blockDim.x):
        out[i] = alpha * x[i] + y[i]
