"""Softmax of rows that are too long for registers: copied to an SM ahead of their time.

A row of 128 KiB fills the registers and shared memory of an SM to such a part that one block is
alone there: while it computes, nobody else loads. So a block goes from row to row, and has the
next one under way all the time. A few packets of each thread are in registers; the others lie in
a *ring* of places in shared memory, through which rows pass one after the other. A place that has
been read for the last time is copied to at once:

::

    place               0   1   2   3   4   5   6   7   8   9  10  11  12  13
    sum up row 0      [ 0   0   0   0   0   0   0   0 ] 1   1   1   1   1   1     on their way
    write row 0         1   1   2   2   2   2   2   2 [ 1   1   1   1   1   1
    sum up row 1        1   1 ] 2   2   2   2   2   2   1   1   1   1   1   1

A thread copies, reads and overwrites its own packets and no others: they need no barrier. What a
row has beyond ring and registers is read twice, the second time from the L2 cache, if all goes
well.

The kernel is made for the packets that a row has, so that they are a straight line of code: what
a loop does to count is as much as what it does to a packet.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.packets import widened
from llm_numba.kernels.rows import (
    MAX_THREADS,
    MAX_WARPS,
    MINUS_INFINITY,
    max_over_row,
    sum_over_row,
)
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


@functools.cache
def softmax_streamed(
    held_packets: int, slots: int, places: int, has_mask: bool, aligned: bool
) -> Any:
    """Make the kernel for rows of so many packets a thread.

    Parameters
    ----------
    held_packets : int
        Of a row, in registers; the last ones, of which some threads may have fewer.
    slots : int
        Packets of a row that pass through the ring, 1 to `places`. Each thread has them all.
    places : int
        Of the ring.
    has_mask : bool
    aligned : bool
        Whether all rows are whole packets.

    Returns
    -------
    dispatcher
        ``softmax_streamed(x, mask, scale, out)``, with 16 bytes of dynamic shared memory for each
        place of each thread.
    """
    words, ahead, half = 4 * held_packets, places - slots, slots // 2
    ahead_of_half = places - half

    @cuda.jit(launch_bounds=MAX_THREADS)
    def softmax_streamed(x, mask, scale, out):
        """Sum up packets by the online rule: one exponential a packet to change the maximum."""
        maxima = cuda.shared.array(MAX_WARPS, float32)
        sums = cuda.shared.array(MAX_WARPS, float32)
        tile = cuda.shared.array(0, x.dtype)
        held = cuda.local.array(words, uint32)
        step = cuda.blockDim.x * ptx.items16(x)
        mine, row = cuda.threadIdx.x * ptx.items16(x), int32(cuda.blockIdx.x)
        coming = (row, int32(0), _first_packet(x, row, aligned))
        for place in range(places):
            coming = _copy_next(x, coming, slots, aligned, tile, mine + place * step)
        _hold(x, row, slots, held_packets, aligned, held)
        place = int32(0)
        while row < x.shape[0]:
            masked = (has_mask, mask, scale, row_of_mask(mask, row))
            head, packets, edge_column = cut_row(x, row, aligned)
            begin = row * x.shape[1] + head
            edge = MINUS_INFINITY
            if edge_column < x.shape[1]:
                edge = logit(x, mask, scale, row, masked[3], edge_column)
            near, part = (tile, head, places), (place, edge, ptx.exp2(edge - reference_point(edge)))
            ptx.cp_async_wait(ahead_of_half)
            part = _sum_near(near, 0, half, masked, part)
            ptx.cp_async_wait(ahead)
            _, maximum, total = _sum_near(near, half, slots, masked, part)
            far = (x, begin, head, packets, slots, held_packets)
            maximum, total = _sum_far(far, held, masked, maximum, total)

            base = reference_point(max_over_row(maximum, maxima))
            inverse = inverse_or_one(sum_over_row(total * ptx.exp2(maximum - base), sums))
            if edge_column < x.shape[1]:
                out[row, edge_column] = ptx.from_float(out, ptx.exp2(edge - base) * inverse)
            for s in range(slots):
                at = mine + place * step
                values = packet_logits(ptx.load16(tile, at), masked, head + mine + s * step)
                store_quotients(out, begin + mine + s * step, values, base, inverse)
                coming = _copy_next(x, coming, slots, aligned, tile, at)
                place = _next(place, places)
            _write_far(far, held, masked, base, inverse, out)
            row = int32(row + cuda.gridDim.x)
            _hold(x, row, slots, held_packets, aligned, held)

    return softmax_streamed


@cuda.jit(device=True)
def _next(place, places):
    """Return the place after this one in the ring."""
    return int32(place + 1) if place + 1 < places else int32(0)


@cuda.jit(device=True)
def _first_packet(x, row, aligned):
    """Return the element at which this thread's first packet of a row begins."""
    head, _, _ = cut_row(x, row, aligned)
    return row * x.shape[1] + head + cuda.threadIdx.x * ptx.items16(x)


@cuda.jit(device=True)
def _copy_next(x, coming, slots, aligned, tile, at):
    """Begin to copy a packet, as a group of its own, and return which one comes after it.

    A packet is a row, a slot, and the element where it begins. Behind the last row the group is
    empty.
    """
    row, slot, source = coming
    if row < x.shape[0]:
        ptx.cp_async16(tile, at, x, source)
    ptx.cp_async_commit()
    if slot + 1 < slots:
        return row, int32(slot + 1), source + cuda.blockDim.x * ptx.items16(x)
    row = int32(row + cuda.gridDim.x)
    return row, int32(0), _first_packet(x, row, aligned)


@cuda.jit(device=True)
def _hold(x, row, slots, held_packets, aligned, held):
    """Load what a row has behind its slots of the ring, as far as there are registers for it."""
    if row < x.shape[0]:
        width = ptx.items16(x)
        head, packets, _ = cut_row(x, row, aligned)
        begin = row * x.shape[1] + head
        for k in range(held_packets):
            packet = cuda.threadIdx.x + (slots + k) * cuda.blockDim.x
            if packet < packets:
                words = ptx.load_raw16(x, begin + packet * width)
                for w in range(4):
                    held[4 * k + w] = words[w]


@cuda.jit(device=True)
def _sum_near(near, begin, end, masked, part):
    """Sum up slots of the ring; a part of the row is where it goes on, and what it has summed."""
    (tile, head, places), (place, maximum, total) = near, part
    step, mine = cuda.blockDim.x * ptx.items16(tile), cuda.threadIdx.x * ptx.items16(tile)
    for s in range(begin, end):
        values = ptx.load16(tile, mine + place * step)
        values = packet_logits(values, masked, head + mine + s * step)
        maximum, total = merge(maximum, total, values)
        place = _next(place, places)
    return place, maximum, total


@cuda.jit(device=True)
def _sum_far(far, held, masked, maximum, total):
    """Sum up the packets that are in registers, and those beyond them in memory."""
    x, begin, head, packets, slots, held_packets = far
    width = ptx.items16(x)
    for k in range(held_packets):
        packet = cuda.threadIdx.x + (slots + k) * cuda.blockDim.x
        if packet < packets:
            values = packet_logits(widened(x, held, k), masked, head + packet * width)
            maximum, total = merge(maximum, total, values)
    packet = cuda.threadIdx.x + (slots + held_packets) * cuda.blockDim.x
    while packet < packets:
        values = packet_logits(ptx.load16(x, begin + packet * width), masked, head + packet * width)
        maximum, total = merge(maximum, total, values)
        packet += cuda.blockDim.x
    return maximum, total


@cuda.jit(device=True)
def _write_far(far, held, masked, base, inverse, out):
    """Write the results of the packets that are in registers, and of those beyond them."""
    x, begin, head, packets, slots, held_packets = far
    width = ptx.items16(x)
    for k in range(held_packets):
        packet = cuda.threadIdx.x + (slots + k) * cuda.blockDim.x
        if packet < packets:
            values = packet_logits(widened(x, held, k), masked, head + packet * width)
            store_quotients(out, begin + packet * width, values, base, inverse)
    packet = cuda.threadIdx.x + (slots + held_packets) * cuda.blockDim.x
    while packet < packets:
        values = packet_logits(ptx.load16(x, begin + packet * width), masked, head + packet * width)
        store_quotients(out, begin + packet * width, values, base, inverse)
        packet += cuda.blockDim.x
