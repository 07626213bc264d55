# 256-bin histogram of bytes: a private histogram in shared memory for each block.
from numba import cuda, int32


@cuda.jit
def histogram256(data, hist):
    smem = cuda.shared.array(256, dtype=int32)
    tid = cuda.threadIdx.x
    for b in range(tid, 256, cuda.blockDim.x):
        smem[b] = 0
    cuda.syncthreads()

    start = cuda.grid(1)
    stride = cuda.gridsize(1)
    for i in range(start, data.shape[0], stride):
        cuda.atomic.add(smem, data[i], 1)
    cuda.syncthreads()

    for b in range(tid, 256, cuda.blockDim.x):
        cuda.atomic.add(hist, b, smem[b])
