"""The first steps of the GEMM ladder: one output a thread, or a warp.

Two that read memory for each product, and two that bring a tile of 32 x 32 into shared memory and
use each number of it 32 times.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_epilogue import finish
from llm_numba.kernels.reduce import warp_sum

WARP = 32
WARPS = 8
TILE = 32
PITCH = TILE + 1  # words from row to row of a padded tile


@cuda.jit
def gemm_naive(a, w, bias, residual, activation, c):
    """One thread an output, and lane after lane down a column of C.

    For each k the 32 lanes read 32 rows of A: 32 sectors, of which 4 bytes each are used. They all
    want the same number of W, one sector. The store hits 32 sectors again.
    """
    row, column = cuda.grid(2)
    if row < c.shape[0] and column < c.shape[1]:
        total = float32(0)
        for k in range(a.shape[1]):
            total += ptx.to_float(a[row, k]) * ptx.to_float(w[column, k])
        value = finish(total, row, column, bias, residual, activation)
        c[row, column] = ptx.from_float(c, value)


@cuda.jit
def gemm_coalesced(a, w, bias, residual, activation, c):
    """One warp an output, its lanes along K: 32 neighbours are 4 sectors, all of them used.

    A quarter of the naive sectors, and for few rows (decoding: M = 1) already the right shape,
    because W is read once. For many rows it is not: every output reads its whole row of A and of
    W, two numbers for each multiply-add.
    """
    output = cuda.blockIdx.x * WARPS + cuda.threadIdx.y
    row = output // c.shape[1]
    column = output % c.shape[1]
    # True or false for all lanes of a warp alike, so that the shuffles find everybody.
    if row < c.shape[0]:
        total = float32(0)
        for k in range(cuda.threadIdx.x, a.shape[1], WARP):
            total += ptx.to_float(a[row, k]) * ptx.to_float(w[column, k])
        total = warp_sum(total)
        if cuda.threadIdx.x == 0:
            value = finish(total, row, column, bias, residual, activation)
            c[row, column] = ptx.from_float(c, value)


@cuda.jit
def gemm_tiled(a, w, bias, residual, activation, c):
    """Each number that a block loads is used 32 times, out of shared memory.

    A block makes 32 x 32 outputs. Tiles of A and W, 32 x 32 each, come in with lanes along K. Then
    a warp is a row of C: for one k its lanes read one number of a_tile, a broadcast, and a column
    of w_tile. Rows of w_tile are 32 words apart, so that column is 32 words of one bank: 32
    wavefronts where one would do.

    Tiles hold float32: each number is widened once, when it is stored, and not at each of 32 uses.
    Beyond the edges they hold zeros, which add nothing.
    """
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    row = cuda.blockIdx.x * TILE + ty
    column = cuda.blockIdx.y * TILE + tx
    w_row = cuda.blockIdx.y * TILE + ty
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, TILE), float32)
    total = float32(0)
    for k in range(tx, a.shape[1] + tx, TILE):
        a_in = row < a.shape[0] and k < a.shape[1]
        w_in = w_row < w.shape[0] and k < w.shape[1]
        a_tile[ty, tx] = ptx.to_float(a[row, k]) if a_in else float32(0)
        w_tile[ty, tx] = ptx.to_float(w[w_row, k]) if w_in else float32(0)
        cuda.syncthreads()
        for i in range(TILE):
            total += a_tile[ty, i] * w_tile[tx, i]
        # Nobody may overwrite the tiles while somebody still reads them.
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        value = finish(total, row, column, bias, residual, activation)
        c[row, column] = ptx.from_float(c, value)


@cuda.jit
def gemm_padded(a, w, bias, residual, activation, c):
    """One unused column in w_tile: rows are 33 words apart, and a column is 32 different banks.

    Only the tile that is read down a column needs it. Padding a_tile, as is often advised, changes
    nothing: its reads were broadcasts. What must be padded by is a *word* of 4 bytes. A tile of
    halves has rows of 16 words, so its columns conflict 16 ways. One half more does not finish the
    work: even columns are free of conflict, odd ones still conflict 2 ways, and every other row
    begins in the middle of a word, where no load of two halves, let alone of eight, may begin. Two
    halves (17 words a row) would do for single loads; eight (20 words) for loads of 16 bytes.
    """
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    row = cuda.blockIdx.x * TILE + ty
    column = cuda.blockIdx.y * TILE + tx
    w_row = cuda.blockIdx.y * TILE + ty
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, PITCH), float32)
    total = float32(0)
    for k in range(tx, a.shape[1] + tx, TILE):
        a_in = row < a.shape[0] and k < a.shape[1]
        w_in = w_row < w.shape[0] and k < w.shape[1]
        a_tile[ty, tx] = ptx.to_float(a[row, k]) if a_in else float32(0)
        w_tile[ty, tx] = ptx.to_float(w[w_row, k]) if w_in else float32(0)
        cuda.syncthreads()
        for i in range(TILE):
            total += a_tile[ty, i] * w_tile[tx, i]
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        value = finish(total, row, column, bias, residual, activation)
        c[row, column] = ptx.from_float(c, value)
