"""Threads without an element leave their word of shared memory as it was."""
# Rejected: step 1, "adds up rows of any length": UninitializedReadError


@cuda.jit
def row_sum_tree(x, out):
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    sums = cuda.shared.array(THREADS, float32)
    total = float32(0)
    for column in range(thread, x.shape[1], THREADS):
        total += x[row, column]
    if thread < x.shape[1]:
        sums[thread] = total
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if thread < half:
            sums[thread] += sums[thread + half]
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        out[row] = sums[0]
