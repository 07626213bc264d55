"""The lanes of a warp go down the rows: right, and each touches a sector of its own."""
# Rejected: step 4, "lays the lanes of a warp along the columns": sectors


@cuda.jit
def add_bias(x, bias, out):
    thread = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    column = cuda.blockIdx.x * cuda.blockDim.x + thread // cuda.blockDim.y
    row = cuda.blockIdx.y * cuda.blockDim.y + thread % cuda.blockDim.y
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] + bias[column]
