"""Right, and the sum is written, and then read back for the norm."""
# Rejected: step 3, "reads once and writes once": total is not read


@cuda.jit
def add_layer_norm(x, residual, weight, bias, eps, total, y):
    held = cuda.local.array(HELD, float32)
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        hold(x, row, held)
        for i in range(HELD):
            n = cuda.threadIdx.x + i * WARP
            if n < x.shape[1]:
                total[row, n] = held[i] + residual[row, n]
        hold(total, row, held)
        mean, variance = held_statistics(held, x.shape[1])
        write_normed(held, mean, variance, weight, bias, eps, row, y)
