"""How fast tensor cores multiply, when nobody has to bring them anything.

Operands stay what they are, so a kernel here is products and nothing else: by ``mma.sync``, of a
warp and out of registers, or by ``wgmma``, of four warps and out of shared memory.

::

    one chain      c = c + A B, c = c + A B, ...       each product waits for the one before
    four chains    c0 += A B, c1 += A B, c2, c3, c0    it need not: four are under way

An SM has four tensor cores, and a warp belongs to one of them.

Sources: "PTX ISA", ``mma.sync`` and ``wgmma``; Luo et al., "Benchmarking and Dissecting the Nvidia
Hopper GPU Architecture via Microbenchmarking", 2024.
"""

import functools
from typing import Any

from numba import cuda, float32, uint16, uint32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.unrolled import unrolled

IN_A_ROUND = 16  # products of each chain of a warp
BATCH = 4  # products that a warpgroup begins together: a slab of 64 numbers
MMA_FLOPS = 2 * 16 * 8 * 16
ROWS, DEPTH = 64, 16  # of one wgmma
COLUMNS = 256
WGMMA_FLOPS = 2 * ROWS * COLUMNS * DEPTH
HOPPER = (9, 0, "a")
_SUMS = COLUMNS // 2
_ATOM = 1024  # bytes at a multiple of which a swizzled tile begins
_SLAB = 64  # numbers of a row of a tile
_B_BEGINS, _NUMBERS = ROWS * _SLAB, (ROWS + COLUMNS) * _SLAB
SHARED_BYTES = 2 * _NUMBERS + _ATOM


@functools.cache
def by_warps(chains: int) -> Any:
    """Make the kernel in which each warp adds to some accumulators in turn.

    Parameters
    ----------
    chains : int

    Returns
    -------
    dispatcher
        Takes two bfloat16, of which A and B consist, rounds, the array for the sum of what each
        thread holds, and one for the cycles.
    """
    SUMS = 4 * chains

    @cuda.jit(device=True)
    def product(i, operands):
        """Add a product to one of the accumulators."""
        x, a, b, acc = operands
        at = 4 * (i % chains)
        c = (acc[at], acc[at + 1], acc[at + 2], acc[at + 3])
        acc[at], acc[at + 1], acc[at + 2], acc[at + 3] = ptx.mma_16x8x16(x, a, b, c)

    products = unrolled(IN_A_ROUND * chains, product)

    @cuda.jit
    def multiply_by_warps(x, rounds, out, taken):
        """Multiply as often as asked, and note the cycles of all warps together."""
        acc = cuda.local.array(SUMS, float32)
        for i in range(SUMS):
            acc[i] = float32(0)
        p, q = uint32(x[0] * uint32(0x10001)), uint32(x[1] * uint32(0x10001))
        cuda.syncthreads()
        begin = ptx.cycles()
        for _ in range(rounds):
            products(0, (x, (p, p, p, p), (q, q), acc))
        total = float32(0)
        for i in range(SUMS):
            total += acc[i]
        out[cuda.threadIdx.x] = total
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            taken[0] = ptx.cycles() - begin

    return multiply_by_warps


@cuda.jit
def multiply_by_warpgroups(x, rounds, out, taken):
    """Multiply 64 x 256 sums of each warpgroup as often as asked, two batches under way."""
    tiles = cuda.shared.array(0, uint16)
    acc = cuda.local.array(_SUMS, float32)
    first = -int(ptx.shared_address(tiles, 0)) % _ATOM // 2
    for i in range(cuda.threadIdx.x, _NUMBERS, cuda.blockDim.x):
        tiles[first + i] = x[0] if i < _B_BEGINS else x[1]
    ptx.fence_async()
    a, b = ptx.matrix_descriptor(tiles, first), ptx.matrix_descriptor(tiles, first + _B_BEGINS)
    cuda.syncthreads()
    begin = ptx.cycles()
    for batch in range(rounds):
        ptx.wgmma_fence()
        for i in range(BATCH):
            step = uint64(2 * i)  # 16 numbers further on: 32 bytes, in units of 16
            ptx.wgmma(tiles, acc, a + step, b + step, COLUMNS, batch + i > 0)
        ptx.wgmma_commit()
        ptx.wgmma_wait(1)
    ptx.wgmma_wait(0)
    total = float32(0)
    for i in range(_SUMS):
        total += acc[i]
    out[cuda.threadIdx.x] = total
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        taken[0] = ptx.cycles() - begin
