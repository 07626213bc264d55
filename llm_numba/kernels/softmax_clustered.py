"""Softmax of rows that a cluster of blocks holds: read once, though no block has room for them.

While the blocks of a row wait for each other, what they hold takes up registers, and nothing new is
loaded there. So an SM shall hold much: two blocks of 512 threads, eight packets a thread, are 128
KiB. And a cluster shall be small, for it waits for its last block: two blocks for rows of up to 128
KiB, four for 256 KiB, eight for 512 KiB.

::

    row            |  rank 0  |  rank 1  |  rank 2  |  rank 3  |
    block            4 r        4 r + 1    4 r + 2    4 r + 3           of row r

Each warp finds maximum and sum of what it holds, and writes them into the shared memory of all
blocks of the cluster. After the cluster's barrier each warp has the pairs of all, and merges them
by the online rule: no barrier of a block is needed.

That the others have begun must be known before anything is written to them. A thread says so of
itself at once, and waits for the others when it has loaded its part.
"""

import functools
from typing import Any

from numba import cuda, float32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.packets import widened
from llm_numba.kernels.reduce import WARP, warp_max, warp_sum
from llm_numba.kernels.rows import MINUS_INFINITY, hold_words
from llm_numba.kernels.softmax_logits import (
    cut_row,
    inverse_or_one,
    logit,
    merge,
    packet_logits,
    reference_point,
    row_of_mask,
    store_quotients,
)
from llm_numba.simulator.clusters import MOST_BLOCKS, in_clusters

THREADS = 512  # of a block, at most; an SM has room for two such blocks
_WARPS = THREADS // WARP


def blocks_of_row(packets: int, held_packets: int) -> int:
    """Return how many blocks a row needs: 2, 4 or 8; 0 if they are not enough.

    Parameters
    ----------
    packets : int
        Of the row.
    held_packets : int
        That a thread has room for.
    """
    sizes = (blocks for blocks in (2, 4, MOST_BLOCKS) if packets <= blocks * THREADS * held_packets)
    return next(sizes, 0)


@functools.cache
def softmax_clustered(blocks: int, held_packets: int, has_mask: bool, aligned: bool) -> Any:
    """Make the kernel for clusters of so many blocks.

    Parameters
    ----------
    blocks : int
    held_packets : int
        Of each thread, in registers.
    has_mask : bool
    aligned : bool
        Whether all rows are whole packets.

    Returns
    -------
    dispatcher
        ``softmax_clustered(x, mask, scale, out)``, with a cluster a row along x.
    """
    words, warps = 4 * held_packets, blocks * _WARPS

    @in_clusters(blocks)
    @cuda.jit(launch_bounds=(THREADS, 2))
    def softmax_clustered(x, mask, scale, out):
        """Hold a part of the row as ``softmax_held`` does, and exchange what is known of it."""
        ptx.cluster_arrive()
        maxima = cuda.shared.array(warps, float32)
        sums = cuda.shared.array(warps, float32)
        held = cuda.local.array(words, uint32)
        rank, row = ptx.cluster_rank(), cuda.blockIdx.x // blocks
        width, masked = ptx.items16(x), (has_mask, mask, scale, row_of_mask(mask, row))
        head, packets, edge_column = cut_row(x, row, aligned)
        before = rank * held_packets * cuda.blockDim.x
        head, packets = head + before * width, packets - before
        begin = row * x.shape[1] + head

        hold_words(x, begin, packets, held)
        has_edge, edge = rank == 0 and edge_column < x.shape[1], MINUS_INFINITY
        if has_edge:
            edge = logit(x, mask, scale, row, masked[3], edge_column)
        maximum, total = edge, ptx.exp2(edge - reference_point(edge))
        for k in range(held_packets):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                values = packet_logits(widened(x, held, k), masked, head + packet * width)
                maximum, total = merge(maximum, total, values)

        base, inverse = _over_cluster(maximum, total, (rank, blocks), maxima, sums)
        for k in range(held_packets):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                values = packet_logits(widened(x, held, k), masked, head + packet * width)
                store_quotients(out, begin + packet * width, values, base, inverse)
        if has_edge:
            out[row, edge_column] = ptx.from_float(out, ptx.exp2(edge - base) * inverse)

    return softmax_clustered


@cuda.jit(device=True)
def _over_cluster(maximum, total, place, maxima, sums):
    """Merge what all threads of the cluster have; return the row's reference point and 1 / sum.

    `maxima` and `sums` are shared, with room for each warp of the cluster; `place` is the block's
    rank, and of how many.
    """
    (rank, blocks), lane, warps = place, cuda.threadIdx.x & 31, cuda.blockDim.x >> 5
    largest = warp_max(maximum)
    total = warp_sum(total * ptx.exp2(maximum - reference_point(largest)))
    ptx.cluster_wait()
    if lane < blocks:
        mine = rank * warps + (cuda.threadIdx.x >> 5)
        ptx.cluster_store(maxima, mine, largest, lane)
        ptx.cluster_store(sums, mine, total, lane)
    ptx.cluster_sync()
    maximum, total = MINUS_INFINITY, float32(0)
    for k in range(maxima.shape[0] // WARP):
        warp = lane + k * WARP
        if warp < blocks * warps:
            larger = ptx.maximum(maximum, maxima[warp])
            base = reference_point(larger)
            total = total * ptx.exp2(maximum - base) + sums[warp] * ptx.exp2(maxima[warp] - base)
            maximum = larger
    base = reference_point(warp_max(maximum))
    return base, inverse_or_one(warp_sum(total * ptx.exp2(maximum - base)))
