"""The kernels of :mod:`llm_numba.kernels.peer`, for P ranks each.

How blocks of several ranks meet, :mod:`llm_numba.kernels.peer_team` says. Each kernel takes a
vector in rounds of what a team has room for; a round is a call of the protocol.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, int64, uint32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.packets import widened
from llm_numba.kernels.peer_team import SLOTS, adder, copy, meeting, packet_adder, slot_of
from llm_numba.kernels.rows import MAX_WARPS, sum_over_row

# Of a row, at most: threads, and packets that each holds until the sum of squares is known.
ROW_THREADS, MOST_HELD = 512, 2


@functools.cache
def one_shot(ranks: int) -> Any:
    """Make the all-reduce in which each rank reads all of what every rank shows.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    dispatcher
        ``one_shot(x, slots, flags, counters, addresses, rank, room, share, in_packets)``.
    """
    meet, add = meeting(ranks), adder(ranks)

    @cuda.jit
    def one_shot(x, slots, flags, counters, addresses, rank, room, share, in_packets):
        """Show, meet, add: one meeting a round, and P - 1 times the bytes over the link."""
        team = cuda.blockIdx.x
        call, first = int64(counters[team]), team * share
        last = min(first + share, x.size)
        for begin in range(first, last, room):
            slot, count = slot_of(call, team, counters, room), min(room, last - begin)
            copy(x, begin, slots, slot, count, in_packets)
            meet(flags, addresses, rank, 2 * call + 1)
            add(slots, addresses, slot, x, begin, count, in_packets)
            call += 1
        if cuda.threadIdx.x == 0:
            counters[team] = int32(call)

    return one_shot


@functools.cache
def two_shot(ranks: int) -> Any:
    """Make the all-reduce in which each rank adds a P-th and hands it to the others.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    dispatcher
        As :func:`one_shot`.
    """
    meet, add = meeting(ranks), adder(ranks)

    @cuda.jit
    def two_shot(x, slots, flags, counters, addresses, rank, room, share, in_packets):
        """Show, meet, add a piece, meet, fetch the others: twice (P - 1) / P of the bytes."""
        team = cuda.blockIdx.x
        call, first = int64(counters[team]), team * share
        last, width = min(first + share, x.size), ptx.items16(x)
        for begin in range(first, last, room):
            slot, count = slot_of(call, team, counters, room), min(room, last - begin)
            piece = (count + ranks * width - 1) // (ranks * width) * width
            copy(x, begin, slots, slot, count, in_packets)
            meet(flags, addresses, rank, 2 * call + 1)
            mine = min(rank * piece, count)
            # Over what this rank showed of its own piece, which nobody else reads.
            at, size = slot + mine, min(piece, count - mine)
            add(slots, addresses, at, slots, at, size, in_packets)
            meet(flags, addresses, rank, 2 * call + 2)
            for r in range(ranks):
                start = min(r * piece, count)
                theirs, size = ptx.at_address(slots, addresses[SLOTS, r]), min(piece, count - start)
                copy(theirs, slot + start, x, begin + start, size, in_packets)
            call += 1
        if cuda.threadIdx.x == 0:
            counters[team] = int32(call)

    return two_shot


@functools.cache
def gather(ranks: int) -> Any:
    """Make the all-gather.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    dispatcher
        As :func:`one_shot`, with `out` [P n] behind `x` [n].
    """
    meet = meeting(ranks)

    @cuda.jit
    def gather(x, out, slots, flags, counters, addresses, rank, room, share, in_packets):
        """Show, meet, fetch what all ranks show."""
        team = cuda.blockIdx.x
        call, first = int64(counters[team]), team * share
        last = min(first + share, x.size)
        for begin in range(first, last, room):
            slot, count = slot_of(call, team, counters, room), min(room, last - begin)
            copy(x, begin, slots, slot, count, in_packets)
            meet(flags, addresses, rank, 2 * call + 1)
            for r in range(ranks):
                theirs = ptx.at_address(slots, addresses[SLOTS, r])
                copy(theirs, slot, out, r * x.size + begin, count, in_packets)
            call += 1
        if cuda.threadIdx.x == 0:
            counters[team] = int32(call)

    return gather


@functools.cache
def reduce_norm(ranks: int, held: int) -> Any:
    """Make the one-shot all-reduce with residual addition and RMSNorm behind it, a row a block.

    Parameters
    ----------
    ranks : int
    held : int
        Packets of 16 bytes that a thread holds until the row's sum of squares is known.

    Returns
    -------
    dispatcher
        ``reduce_norm(x, residual, weight, eps, total, out, length, rows, slots, flags, counters,
        addresses, rank, room)``; matrices with their axes joined.
    """
    meet, add_packet = meeting(ranks), packet_adder(ranks)
    words_loaded, words_kept = 4 * ranks, 4 * held

    @cuda.jit(launch_bounds=(ROW_THREADS, 1))
    def reduce_norm(
        x, residual, weight, eps, total, out, length, rows, slots, flags, counters, addresses, rank,
        room,
    ):  # fmt: skip
        """Add over the ranks, add the residual, normalise, without a trip to memory between."""
        partial = cuda.shared.array(MAX_WARPS, float32)
        words = cuda.local.array(words_loaded, uint32)
        kept = cuda.local.array(words_kept, uint32)
        team, width = cuda.blockIdx.x, ptx.items16(x)
        call, packets = int64(counters[team]), length // width
        for row in range(team, rows, cuda.gridDim.x):
            slot, begin = slot_of(call, team, counters, room), row * length
            copy(x, begin, slots, slot, length, 1)
            meet(flags, addresses, rank, 2 * call + 1)
            share = float32(0)
            for k in range(held):
                packet = cuda.threadIdx.x + k * cuda.blockDim.x
                if packet < packets:
                    numbers = add_packet(slots, addresses, slot + packet * width, words)
                    added = ptx.load16(residual, begin + packet * width)
                    for e in range(width):
                        numbers = ptx.with_item(numbers, e, numbers[e] + added[e])
                    rounded = ptx.round_raw16(total, numbers)
                    ptx.store_raw16(total, begin + packet * width, rounded)
                    for w in range(4):
                        kept[4 * k + w] = rounded[w]
                    for number in widened(total, kept, k):
                        share += number * number
            mean_square = sum_over_row(share, partial) / float32(length)
            inverse = libdevice.rsqrtf(mean_square + eps)
            for k in range(held):
                packet = cuda.threadIdx.x + k * cuda.blockDim.x
                if packet < packets:
                    numbers, scales = widened(total, kept, k), ptx.load16(weight, packet * width)
                    for e in range(width):
                        numbers = ptx.with_item(numbers, e, numbers[e] * inverse * scales[e])
                    ptx.store16(out, begin + packet * width, numbers)
            call += 1
        if cuda.threadIdx.x == 0:
            counters[team] = int32(call)

    return reduce_norm
