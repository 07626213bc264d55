"""Right, and the row is read from memory again when it is normalised."""
# Rejected: step 2, "reads once and writes once": read once


@cuda.jit
def layer_norm(x, weight, bias, eps, y):
    held = cuda.local.array(HELD, float32)
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        hold(x, row, held)
        mean, variance = held_statistics(held, x.shape[1])
        hold(x, row, held)
        write_normed(held, mean, variance, weight, bias, eps, row, y)
