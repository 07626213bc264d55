r"""The kernel for few rows: weights stream through shared memory, past tensor cores.

*Which side is which.* ``mma.sync`` multiplies 16 rows of its A by 8 columns of its B. Weights are
many and rows of x are few, so weights are A here, and rows of x are the columns of B: the product
comes out transposed, in registers, where nobody minds.

::

    C [M, N]     n ->  16 rows of weights      as the tensor core has it
    m  +---------+---------+---                A: 16 rows of W    B: 8 rows of x
    |  | 8 rows  |         |                      [16, 16 of K]      [8, 16 of K]
    v  | of x    |         |                   C^T [16, 8]
       +---------+---------+---

*Who has which part of K.* A tile of C is all rows of x by 64 or 128 rows of weights, and it needs
all of K of them. Where tiles are fewer than the GPU has room for, several blocks share the K of a
tile. They are a *cluster*. Each lays its sums down in its shared memory, and reads what the others
have there of the rows that it finishes::

    rank            0              1              2              3
    K               [0, K/4)       [K/4, K/2)     [K/2, 3K/4)    [3K/4, K)     of the same tile
    sums            all rows of x by all columns of the tile, each in part
    finishes rows   0, 4, ..       1, 5, ..       2, 6, ..       3, 7, ..      4 parts, in order

The order of the parts is that of K, whoever comes first: the same bits every time.

Before sm_90 there are no clusters; then parts go through global memory, and
:mod:`~llm_numba.kernels.gemm_split_k` adds them.

*When a block begins.* Weights are there before the kernel that makes x has ended. So a block sends
for its first slabs of weights, then waits for that kernel, and only then sends for those of x.

Sources: NVIDIA, "PTX ISA", ``mma``, ``mapa``; "CUDA C++ Programming Guide", "Distributed Shared
Memory".
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_pieces import STORED
from llm_numba.kernels.gemm_sources import aiming
from llm_numba.kernels.gemm_tensorcore_epilogue import store_packet
from llm_numba.kernels.gemm_tensorcore_pieces import clear, multiplying, swizzled
from llm_numba.kernels.gemm_tensorcore_tiles import FRAGMENT, PACKET, WARP, Tile
from llm_numba.kernels.unrolled import unrolled
from llm_numba.runtime import starts_early
from llm_numba.simulator.clusters import in_clusters

# Floats behind a row of sums: lanes of a fragment, 8 columns of each of 4 rows 2 apart, then
# write to 32 banks.
_PAD = 4


def joined_bytes(tile: Any) -> int:
    """Return the shared memory in which sums of a tile meet.

    Parameters
    ----------
    tile : Tile, or another cut with `rows` and `columns`
    """
    return tile.rows * pitch(tile) * 4


def pitch(tile: Any) -> int:
    """Return the floats from one row of sums to the next.

    Parameters
    ----------
    tile : Tile, or another cut with `rows` and `columns`
    """
    return tile.columns + _PAD


@cuda.jit(device=True)
def _of_block():
    """Wait for the threads of the block."""
    cuda.syncthreads()


@cuda.jit(device=True)
def _of_cluster():
    """Wait for the threads of the cluster."""
    ptx.cluster_sync()


def meeting(blocks: int) -> Any:
    """Return the device function that waits for all threads that share a tile.

    Parameters
    ----------
    blocks : int
        Of a cluster.
    """
    return _of_cluster if blocks > 1 else _of_block


@functools.cache
def _bringing(tile: Tile) -> tuple[Any, Any]:
    """Make the device functions that begin to copy a slab of x, and one of W.

    Both are ``bring(tiles, stage, source, begin, offsets, inside)``: a thread's packets, or zeros
    where they lie beyond the end of the block's part of K.
    """
    SLAB, PACKETS = tile.slab, tile.packets
    TOGETHER = tile.threads // PACKETS
    STEP = TOGETHER * SLAB
    place = swizzled(tile).place

    def rows_from(first: int, rows: int) -> Any:
        LOADS = rows // TOGETHER

        @cuda.jit(device=True, forceinline=True)
        def bring(tiles, stage, source, begin, offsets, inside):
            """Begin to copy rows that stand a multiple of 8 apart: one swizzle serves all."""
            t = cuda.threadIdx.x
            to = stage + first * SLAB + place(t // PACKETS, t % PACKETS)
            for i in range(LOADS):
                at = begin + offsets[i]
                ptx.cp_async16_or_zeros(tiles, to + i * STEP, source, at, inside)

        return bring

    return rows_from(0, tile.rows), rows_from(tile.rows, tile.columns)


@cuda.jit(device=True)
def _add_parts(passing, begin, items, blocks):
    """Add neighbours of a row over the blocks of a cluster, in the order of their ranks."""
    for at in range(begin, begin + items, 4):
        quad = ptx.cluster_load16(passing, at, 0)
        for rank in range(1, blocks):
            other = ptx.cluster_load16(passing, at, rank)
            for e in range(4):
                quad = ptx.with_item(quad, e, quad[e] + other[e])
        ptx.store16(passing, at, quad)


@functools.cache
def finishing(tile: Any, blocks: int, run: int, gated: bool, threads: int) -> Any:
    """Make the device function that adds parts, finishes sums and stores them.

    Parameters
    ----------
    tile : Tile, or another cut with `rows` and `columns`
    blocks : int
        Of a cluster.
    run : int
        Columns of the tile that are neighbours in C; with a gate, one half is multiplied by the
        other.
    gated : bool
    threads : int
        That do it.

    Returns
    -------
    device function
        ``finish(passing, rank, first_column, bias, residual, activation, c)``: a thread takes
        packets of 16 bytes of C, of the rows that are this block's.
    """
    SHARE, PITCH = tile.rows // blocks, pitch(tile)
    OWN = run // 2 if gated else run  # columns of C
    GAP = OWN if gated else 0
    OUTPUTS = tile.columns // run * OWN

    @cuda.jit(device=True)
    def finish(passing, rank, first_column, bias, residual, activation, c):
        """Go through packets of C: neighbouring threads take neighbours of a row."""
        width = ptx.items16(c)
        across = OUTPUTS // width
        for i in range(cuda.threadIdx.x, SHARE * across, threads):
            row, column = i // across * blocks + rank, i % across * width
            n = first_column + column
            if row < c.shape[0] and n < c.shape[1]:
                at = row * PITCH + column // OWN * run + column % OWN
                if blocks > 1:
                    # Nobody else reads this row here, so the sum may take its place.
                    _add_parts(passing, at, width, blocks)
                    if gated:
                        _add_parts(passing, at + GAP, width, blocks)
                store_packet(passing, at, GAP, row, n, bias, residual, activation, c)

    return finish


@functools.cache
def skinny(storage: str, tile: Tile, blocks: int, gated: bool, /) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    tile : Tile
        Its rows are of x, its columns rows of weights; its splits do not matter.
    blocks : int
        Of a cluster, which share the K of a tile: 1, or a power of two up to 8 and the tile's rows.
    gated : bool
        Whether W is [2F, K], and two of its rows make one column of C.
    """
    ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, SLAB, STAGES = tile[:6]
    ACROSS, PACKETS, STEPS = tile.warps_along_columns, tile.packets, SLAB // FRAGMENT
    TOGETHER = tile.threads // PACKETS
    X_LOADS, W_LOADS = ROWS // TOGETHER, COLUMNS // TOGETHER
    OF_X, OF_W = tile.fragments
    PRODUCTS, FORM = OF_X * OF_W * 2, STORED[storage]
    STAGE, AHEAD = (ROWS + COLUMNS) * SLAB, (STAGES - 1) * SLAB
    LAST, UNDER_WAY = (STAGES - 1) * STAGE, STAGES - 2
    OUTPUTS = COLUMNS // 2 if gated else COLUMNS
    (bring_x, bring_w), aim_packets = _bringing(tile), aiming(storage, tile, gated)
    # The layout's A is of 16 rows: weights here.
    _, aim_w, aim_x, load_w, load_x = swizzled(tile)
    turned = tile._replace(warp_rows=WARP_COLUMNS, warp_columns=WARP_ROWS)
    multiply, meet, PITCH = multiplying(turned), meeting(blocks), pitch(tile)
    finish = finishing(tile, blocks, WARP_COLUMNS, gated, tile.threads)
    EIGHTS = WARP_ROWS // 8

    @cuda.jit(device=True, forceinline=True)
    def multiply_step(step, operands):
        """Multiply 16 numbers along K of the slab that is here."""
        tiles, here, at_w, at_x, w_part, x_part, total = operands
        load_w(tiles, here, at_w, step, w_part)
        load_x(tiles, here, at_x, step, x_part)
        multiply(0, (tiles, w_part, x_part, total))

    @cuda.jit(device=True, forceinline=True)
    def lay_product(i, operands):
        """Lay four sums down: columns g and g + 8 of rows 2t and 2t + 1."""
        total, passing, row, column = operands
        for e in range(4):
            m, n = row + i % EIGHTS * 8 + e % 2, column + i // EIGHTS * FRAGMENT + e // 2 * 8
            passing[m * PITCH + n] = total[i, e]

    multiply_slab, lay = unrolled(STEPS, multiply_step), unrolled(PRODUCTS, lay_product)

    @starts_early
    @in_clusters(blocks)
    @cuda.jit(launch_bounds=(tile.threads, tile.blocks))
    def gemm_skinny(x, w, bias, residual, activation, splits, span, c):
        """Make a tile of C, or a part of one of ``c [splits / blocks, M, N]``, of `span` of K."""
        t, K = cuda.threadIdx.x, x.shape[1]
        down, across = t // WARP // ACROSS, t // WARP % ACROSS
        row, column = down * WARP_ROWS, across * WARP_COLUMNS
        rank, part = ptx.cluster_rank(), cuda.blockIdx.x % splits
        first = cuda.blockIdx.x // splits * OUTPUTS
        # One memory: sums meet in it when the slabs are no longer needed.
        tiles, passing = cuda.shared.array(0, FORM), cuda.shared.array(0, float32)
        total = cuda.local.array((PRODUCTS, 4), float32)
        x_part, w_part = cuda.local.array((OF_X, 4), uint32), cuda.local.array((OF_W, 4), uint32)
        x_at, w_at = cuda.local.array(X_LOADS, int32), cuda.local.array(W_LOADS, int32)
        clear(total)
        aim_packets(x, w, 0, first, x_at, w_at)
        at_x, at_w = aim_x(row), aim_w(ROWS + column)
        start = part * span
        inside = min(K, start + span) - start - t % PACKETS * PACKET  # numbers from a packet on
        w_from = first * K + start
        for k in range(0, AHEAD, SLAB):
            bring_w(tiles, k // SLAB * STAGE, w, w_from + k, w_at, k < inside)
        ptx.await_previous_kernel()
        for k in range(0, AHEAD, SLAB):
            bring_x(tiles, k // SLAB * STAGE, x, start + k, x_at, k < inside)
            ptx.cp_async_commit()
        here, free = 0, LAST
        for k in range(AHEAD, min(K - start, span) + AHEAD, SLAB):
            ptx.cp_async_wait(UNDER_WAY)
            cuda.syncthreads()
            bring_w(tiles, free, w, w_from + k, w_at, k < inside)
            bring_x(tiles, free, x, start + k, x_at, k < inside)
            ptx.cp_async_commit()
            multiply_slab(0, (tiles, here, at_w, at_x, w_part, x_part, total))
            free, here = here, (here + STAGE if here < LAST else 0)
        ptx.release_next_kernel()
        ptx.cp_async_wait(0)
        cuda.syncthreads()
        lay(0, (total, passing, row + t % 4 * 2, column + t % WARP // 4))
        meet()
        finish(passing, rank, first, bias, residual, activation, c[part // blocks])
        if blocks > 1:
            meet()  # nobody ends while others read what it has

    return gemm_skinny
