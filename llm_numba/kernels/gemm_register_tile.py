"""The last step of the GEMM ladder: each thread owns a tile of outputs.

::

            w_tile [16, 128 + 2]                        thread (tx, ty), 16 x 16 of them,
            tx  +16 +32      +112                       owns 8 x 8 outputs, 16 apart:
             |   |   |         |
    ty    -- x . x . x ....... x                        rows     ty, ty + 16, .. ty + 112
    +16   -- x . x . x ....... x                        columns  tx, tx + 16, .. tx + 112
     :       :                 :
    +112  -- x . x . x ....... x                        For each k it reads 8 + 8 numbers and
    a_tile   a tile of 128 x 128 outputs                makes 64 multiply-adds of them.
    [16, 128 + 2]

A block makes 128 x 128 outputs from one slab of K after the other. With one output a thread, as is
often drawn, it would take 16,384 threads; a block has at most 1,024. Nor would it help: each thread
would read two numbers of shared memory for each multiply-add, as in the tiled steps.

*Why 16 apart.* A warp is two rows of 16 threads. Its lanes read neighbouring columns: 16
neighbouring words of w_tile and 2 of a_tile, no bank twice. With 8 neighbouring columns a thread,
lanes would read 8 words apart and meet 4 to a bank. The stores of C profit as well: two runs of 16
neighbours.

*Why K first, and + 2.* So laid out, the numbers for one k lie side by side. But the slab comes in
with lanes along k, as it lies in memory: lane (tx, ty) writes word 130 tx + ty, which is bank
2 tx + ty modulo 32. With ty one of two neighbours these are 32 different banks. A row of 128 would
put 16 lanes into one bank, 129 two.

*What it buys.* 16 shared-memory wavefronts for 64 multiply-adds of a warp, where the padded step
takes 128. In a cycle an SM serves one wavefront and starts the multiply-adds of 4 warps, so that
either now takes 16 cycles. For a multiply-add 2/128 numbers come from global memory, where tiles of
32 x 32 take 2/32. In float32 that is 32 FLOPs a byte; from 20 on an H100's CUDA cores rather than
its memory are the limit.

Source: Volkov and Demmel, "Benchmarking GPUs to tune dense linear algebra", 2008.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_epilogue import finish

BLOCK_TILE = 128  # rows and columns of C a block
THREADS = 16  # threads along each axis of a block
THREAD_TILE = BLOCK_TILE // THREADS
SLAB = THREADS  # numbers along K that are in shared memory at once, one for each tx
PITCH = BLOCK_TILE + 2


@cuda.jit(launch_bounds=(THREADS * THREADS, 2))
def gemm_register_tile(a, w, bias, residual, activation, c):
    """8 x 8 outputs a thread, their sums in registers.

    Registers have no addresses: each index into ``total``, ``a_part`` and ``w_part`` must be known
    when the kernel is compiled. It is, where a loop of constant length is short enough to be
    unrolled. The last loop is not, with all that an epilogue may hold. So there the numbers move
    and not the index: row by row up to the first, and from there into shared memory, which is free
    by then. Each thread reads what it wrote itself and needs no barrier.

    The launch bounds ask for registers that leave room for two blocks on an SM: one computes while
    the other waits for its slab.
    """
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    row = cuda.blockIdx.x * BLOCK_TILE + ty
    column = cuda.blockIdx.y * BLOCK_TILE + tx
    w_row = cuda.blockIdx.y * BLOCK_TILE + ty
    a_tile = cuda.shared.array((SLAB, PITCH), float32)
    w_tile = cuda.shared.array((SLAB, PITCH), float32)
    total = cuda.local.array((THREAD_TILE, THREAD_TILE), float32)
    a_part = cuda.local.array(THREAD_TILE, float32)
    w_part = cuda.local.array(THREAD_TILE, float32)
    for i in range(THREAD_TILE):
        for j in range(THREAD_TILE):
            total[i, j] = float32(0)

    for k in range(tx, a.shape[1] + tx, SLAB):
        for i in range(0, BLOCK_TILE, THREADS):
            a_in = row + i < a.shape[0] and k < a.shape[1]
            w_in = w_row + i < w.shape[0] and k < w.shape[1]
            a_tile[tx, ty + i] = ptx.to_float(a[row + i, k]) if a_in else float32(0)
            w_tile[tx, ty + i] = ptx.to_float(w[w_row + i, k]) if w_in else float32(0)
        cuda.syncthreads()
        for s in range(SLAB):
            for i in range(THREAD_TILE):
                a_part[i] = a_tile[s, ty + THREADS * i]
                w_part[i] = w_tile[s, tx + THREADS * i]
            for i in range(THREAD_TILE):
                for j in range(THREAD_TILE):
                    total[i, j] += a_part[i] * w_part[j]
        cuda.syncthreads()

    for m in range(row, row + BLOCK_TILE, THREADS):
        for j in range(THREAD_TILE):
            a_tile[tx, ty + THREADS * j] = total[0, j]
        for j in range(0, BLOCK_TILE, THREADS):
            if m < c.shape[0] and column + j < c.shape[1]:
                value = finish(a_tile[tx, ty + j], m, column + j, bias, residual, activation)
                c[m, column + j] = ptx.from_float(c, value)
        for i in range(THREAD_TILE - 1):
            for j in range(THREAD_TILE):
                total[i, j] = total[i + 1, j]
