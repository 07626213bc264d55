"""The two axes are swapped: rows along x, columns along y."""
# Rejected: step 4, "adds the bias to every row, whatever the shape": nobody wrote there


@cuda.jit
def add_bias(x, bias, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] + bias[column]
