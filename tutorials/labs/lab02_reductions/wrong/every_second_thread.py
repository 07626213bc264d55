"""Every second thread, then every fourth adds: right, and every warp is split in each fold."""
# Rejected: step 1, "lets whole warps fall idle, with one barrier a fold": split a warp


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
        if thread % (2 * distance) == 0:
            sums[thread] += sums[thread + distance]
        cuda.syncthreads()
        distance *= 2
    if thread == 0:
        out[row] = sums[0]
