"""The first two steps of the Hopper ladder: all threads multiply, and bring slabs in between.

::

    slab              k                        k + 1
    arrived?          wait, fence, barrier     wait, ...
    tensor cores          | products of k |        | products of k + 1 |
    threads                | begin slab k + stages - 1 |

Once a slab, all wait: for its bytes, for the products of the slab before, and at a barrier for each
other. Behind it the stage of the slab before is free, and what comes next goes there. In
``warpgroups`` every thread copies packets of 16 bytes with ``cp.async``, and computes for each
where it lies in memory and where, swizzled, in the tile. In ``copy_engine`` one thread names a box.

Sources: NVIDIA, "PTX ISA", ``wgmma``, ``cp.async``, ``cp.async.bulk.tensor``.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_pieces import (
    GROUP_ROWS,
    GROUP_THREADS,
    SLAB,
    STORED,
    Tile,
    first_place,
    multiplying,
    place_of,
    storing,
)

_PACKET = 8  # numbers
_PACKETS = SLAB // _PACKET


def _copying(rows: int, threads: int) -> Any:
    """Make what begins to copy rows of a slab, all threads together."""
    PASSES, TOGETHER = rows * _PACKETS // threads, threads // _PACKETS

    @cuda.jit(device=True)
    def copy(tiles, at, matrix, first_row, k):
        """Packet p of row r goes to place p xor (r mod 8): the swizzle by hand."""
        r, p = cuda.threadIdx.x // _PACKETS, cuda.threadIdx.x % _PACKETS
        to = at + r * SLAB + (p ^ r % 8) * _PACKET
        for i in range(PASSES):
            row = first_row + r + i * TOGETHER
            source = row * matrix.shape[1] + k + p * _PACKET
            inside = row < matrix.shape[0] and k + p * _PACKET < matrix.shape[1]
            ptx.cp_async16_or_zeros(tiles, to + i * TOGETHER * SLAB, matrix, source, inside)

    return copy


@functools.cache
def warpgroups(storage: str, tile: Tile, /) -> Any:
    """Make the kernel.

    What is new: four warps multiply 64 rows by all columns of the tile in one instruction, and
    read both operands out of shared memory. ``mma.sync`` spends some 24 loads of fragments on 64
    multiplications; here there are none, and no registers for fragments.

    Predicted: 1.3 times the ``mma.sync`` kernel of the same copies, for what is left to the
    threads are copies: 16 packets of each, with their addresses, for 8 multiplications.
    """
    ROWS, COLUMNS, STAGES = tile
    THREADS, FORM = GROUP_THREADS * tile.groups, STORED[storage]
    STAGE, B_BEGINS, SUMS = tile.stage, tile.rows * SLAB, tile.columns // 2
    AHEAD = STAGES - 2  # groups that may be on their way when a slab is multiplied
    copy_a, copy_b = _copying(ROWS, THREADS), _copying(COLUMNS, THREADS)
    multiply, store = multiplying(tile), storing(tile.columns)

    @cuda.jit(launch_bounds=(THREADS, 1))
    def gemm_warpgroups(a, b, c, together, paired, bias, beside):
        """C [M, N] = A [M, K] B [N, K]^T, a tile a block."""
        tiles = cuda.shared.array(0, FORM)
        acc = cuda.local.array(SUMS, float32)
        first = first_place(tiles)
        down, across = (c.shape[0] + ROWS - 1) // ROWS, (c.shape[1] + COLUMNS - 1) // COLUMNS
        row, column = place_of(cuda.blockIdx.x, down, across, together)
        row, column = row * ROWS, column * COLUMNS
        share = cuda.threadIdx.x // GROUP_THREADS * GROUP_ROWS
        K = a.shape[1]
        for s in range(STAGES - 1):
            copy_a(tiles, first + s * STAGE, a, row, s * SLAB)
            copy_b(tiles, first + s * STAGE + B_BEGINS, b, column, s * SLAB)
            ptx.cp_async_commit()
        slab = int32(0)
        for k in range(0, K, SLAB):
            ptx.cp_async_wait(AHEAD)
            ptx.fence_async()
            ptx.wgmma_wait(0)
            cuda.syncthreads()
            at = first + slab % STAGES * STAGE
            a_at = ptx.matrix_descriptor(tiles, at + share * SLAB)
            multiply(tiles, a_at, ptx.matrix_descriptor(tiles, at + B_BEGINS), acc, k > 0)
            to = first + (slab + STAGES - 1) % STAGES * STAGE
            copy_a(tiles, to, a, row, k + (STAGES - 1) * SLAB)
            copy_b(tiles, to + B_BEGINS, b, column, k + (STAGES - 1) * SLAB)
            ptx.cp_async_commit()
            slab += int32(1)
        ptx.cp_async_wait(0)
        ptx.wgmma_wait(0)
        store(acc, c, row + share, column, paired, bias, beside)

    return gemm_warpgroups


@functools.cache
def copy_engine(storage: str, tile: Tile, /) -> Any:
    """Make the kernel.

    What is new: one thread tells the copy engine which box comes next. No thread computes an
    address, none asks whether a packet lies outside, and the swizzle is the engine's.

    Predicted: 1.15 times the step before. Of a slab's cycles, 512 on the tensor cores for two
    warpgroups of 64 x 128, the copies took the schedulers some hundred.
    """
    ROWS, COLUMNS, STAGES = tile
    THREADS, FORM = GROUP_THREADS * tile.groups, STORED[storage]
    STAGE, B_BEGINS, SUMS = tile.stage, tile.rows * SLAB, tile.columns // 2
    BYTES = tile.stage_bytes
    multiply, store = multiplying(tile), storing(tile.columns)

    @cuda.jit(device=True)
    def bring(tiles, first, slab, a_map, b_map, row, column, full):
        """Have a slab brought into its stage."""
        stage, k = slab % STAGES, slab * SLAB
        at = first + stage * STAGE
        ptx.mbarrier_expect(full, stage, BYTES)
        ptx.tma_load_2d(tiles, at, a_map, k, row, full, stage)
        ptx.tma_load_2d(tiles, at + B_BEGINS, b_map, k, column, full, stage)

    @cuda.jit(launch_bounds=(THREADS, 1))
    def gemm_copy_engine(a_map, b_map, K, c, together, paired, bias, beside):
        """C [M, N] = A [M, K] B [N, K]^T, a tile a block; the maps are of A and B."""
        a_map, b_map = ptx.parameter(a_map), ptx.parameter(b_map)
        tiles = cuda.shared.array(0, FORM)
        full = cuda.shared.array(STAGES, uint64)
        acc = cuda.local.array(SUMS, float32)
        first = first_place(tiles)
        down, across = (c.shape[0] + ROWS - 1) // ROWS, (c.shape[1] + COLUMNS - 1) // COLUMNS
        row, column = place_of(cuda.blockIdx.x, down, across, together)
        row, column = row * ROWS, column * COLUMNS
        share = cuda.threadIdx.x // GROUP_THREADS * GROUP_ROWS
        slabs = (K + SLAB - 1) // SLAB
        if cuda.threadIdx.x == 0:
            for s in range(STAGES):
                ptx.mbarrier_init(full, s, 1)
            ptx.fence_async()
            for s in range(min(slabs, STAGES - 1)):
                bring(tiles, first, s, a_map, b_map, row, column, full)
        cuda.syncthreads()
        for slab in range(slabs):
            while not ptx.mbarrier_test(full, slab % STAGES, slab // STAGES & 1):
                pass
            ptx.wgmma_wait(0)
            cuda.syncthreads()
            at = first + slab % STAGES * STAGE
            a_at = ptx.matrix_descriptor(tiles, at + share * SLAB)
            multiply(tiles, a_at, ptx.matrix_descriptor(tiles, at + B_BEGINS), acc, slab > 0)
            if cuda.threadIdx.x == 0 and slab + STAGES - 1 < slabs:
                bring(tiles, first, slab + STAGES - 1, a_map, b_map, row, column, full)
        ptx.wgmma_wait(0)
        store(acc, c, row + share, column, paired, bias, beside)

    return gemm_copy_engine
