"""Folds neighbours first, at indices far apart: right, and with more and more bank conflicts."""
# Rejected: step 1, "is free of bank conflicts": wavefronts


@cuda.jit
def row_sum_tree(x, out):
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    sums = cuda.shared.array(THREADS, float32)
    total = float32(0)
    for column in range(thread, x.shape[1], THREADS):
        total += x[row, column]
    sums[thread] = total
    cuda.syncthreads()
    distance = 1
    while distance < THREADS:
        i = 2 * distance * thread
        if i < THREADS:
            sums[i] += sums[i + distance]
        cuda.syncthreads()
        distance *= 2
    if thread == 0:
        out[row] = sums[0]
