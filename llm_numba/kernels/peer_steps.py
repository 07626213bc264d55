"""The kernels of :mod:`llm_numba.kernels.peer`, for P ranks each.

How blocks of several ranks meet, :mod:`llm_numba.kernels.peer_team` says. Each kernel takes a
vector in rounds of what a team has room for; a round is a call of the protocol.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, int64, uint32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.layernorm_added import (
    EARLY,
    add_residual,
    finisher,
    load_packets,
    sum_squares,
)
from llm_numba.kernels.peer_team import SLOTS, adder, copy, holder, meeting, slot_of
from llm_numba.kernels.rows import LAUNCH_BOUNDS, MAX_WARPS, sum_over_row

# Packets of a row that a thread holds until the sum of squares is known, and a row's most threads:
# as in the kernel that adds and normalises on one GPU.
HELD = EARLY
ROW_THREADS = LAUNCH_BOUNDS[HELD][0]


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
def reduce_norm(ranks: int) -> Any:
    """Make the one-shot all-reduce with residual addition and RMSNorm behind it, a row a block.

    What follows the sum is done by the functions, and with the threads, of
    :mod:`llm_numba.kernels.layernorm_added`: so each bit is that of the two kernels.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    dispatcher
        ``reduce_norm(x, residual, weight, eps, total, out, length, rows, slots, flags, counters,
        addresses, rank, room)``; matrices with their axes joined.
    """
    meet, hold_sums = meeting(ranks), holder(ranks)
    words, finish_all = 4 * HELD, finisher(HELD, None, False)

    @cuda.jit(launch_bounds=(ROW_THREADS, 1))
    def reduce_norm(
        x, residual, weight, eps, total, out, length, rows, slots, flags, counters, addresses, rank,
        room,
    ):  # fmt: skip
        """Add over the ranks, add the residual, normalise, without a trip to memory between."""
        partial = cuda.shared.array(MAX_WARPS, float32)
        held = cuda.local.array(words, uint32)
        weights = cuda.local.array(words, uint32)
        team, call = cuda.blockIdx.x, int64(counters[cuda.blockIdx.x])
        of_one, zero = float32(1) / float32(length), float32(0)
        packets = int32(length // ptx.items16(x))
        load_packets(weight, 0, packets, weights)
        for row in range(team, rows, cuda.gridDim.x):
            slot, begin = slot_of(call, team, counters, room), int32(row * packets)
            copy(x, row * length, slots, slot, length, 1)
            meet(flags, addresses, rank, 2 * call + 1)
            hold_sums(slots, addresses, slot, packets, held)
            add_residual(residual, begin, packets, held, total)
            share = sum_squares(x, packets, zero, held)
            inverse = libdevice.rsqrtf(sum_over_row(share, partial) * of_one + eps)
            # No mean, no bias: the mean is 0, and nobody looks at what stands for the bias.
            task = (x, weight, weight, out, begin, packets, held, weights, weights, zero, inverse)
            finish_all(0, task)
            call += 1
        if cuda.threadIdx.x == 0:
            counters[team] = int32(call)

    return reduce_norm
