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
    finisher,
    load_packets,
    store_packets,
    sum_squares,
)
from llm_numba.kernels.packets import widened
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


@cuda.jit(device=True)
def _add_loaded(like, loaded, held):
    """Add what a thread has loaded to what it holds, and round as memory would."""
    for k in range(len(held) // 4):
        values, added = widened(like, held, k), widened(like, loaded, k)
        for e in range(ptx.items16(like)):
            values = ptx.with_item(values, e, values[e] + added[e])
        rounded = ptx.round_raw16(like, values)
        for w in range(4):
            held[4 * k + w] = rounded[w]


@functools.cache
def reduce_norm(ranks: int) -> Any:
    """Make the one-shot all-reduce with residual addition and RMSNorm behind it.

    A team shows as many rows at a time as it has room for, and then finishes one after
    another. What follows the sum is done with the threads, and mostly by the functions, of
    :mod:`llm_numba.kernels.layernorm_added`: so each bit is that of two kernels.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    dispatcher
        ``reduce_norm(x, residual, weight, eps, total, out, length, rows, share, slots, flags,
        counters, addresses, rank, room)``; matrices with their axes joined, `share` rows a team.
    """
    meet, hold_sums = meeting(ranks), holder(ranks)
    words, finish_all = 4 * HELD, finisher(HELD, None, False)

    @cuda.jit(launch_bounds=(ROW_THREADS, 1))
    def reduce_norm(
        x, residual, weight, eps, total, out, length, rows, share, slots, flags, counters,
        addresses, rank, room,
    ):  # fmt: skip
        """Load what is there already while the others come; add, normalise, a row at a time."""
        partial = cuda.shared.array(MAX_WARPS, float32)
        held, added = cuda.local.array(words, uint32), cuda.local.array(words, uint32)
        scales = cuda.local.array(words, uint32)
        team, call = cuda.blockIdx.x, int64(counters[cuda.blockIdx.x])
        of_one, mean = float32(1) / float32(length), float32(0)  # RMSNorm takes none
        packets, at_once = int32(length // ptx.items16(x)), room // length
        load_packets(weight, 0, packets, scales)
        last = min((team + 1) * share, rows)
        for first in range(team * share, last, at_once):
            slot, count = slot_of(call, team, counters, room), min(at_once, last - first)
            copy(x, first * length, slots, slot, count * length, 1)
            load_packets(residual, int32(first * packets), packets, added)
            meet(flags, addresses, rank, 2 * call + 1)
            for row in range(count):
                begin = int32((first + row) * packets)
                if row > 0:
                    load_packets(residual, begin, packets, added)
                    # The last row's partial sums were read; what is loaded may be overwritten.
                    cuda.syncthreads()
                hold_sums(slots, addresses, slot + row * length, packets, held)
                _add_loaded(x, added, held)
                store_packets(total, begin, packets, held)
                squares = sum_over_row(sum_squares(x, packets, mean, held), partial)
                inverse = libdevice.rsqrtf(squares * of_one + eps)
                # There is no bias: nobody looks at what stands for it.
                task = (x, weight, weight, out, begin, packets, held, scales, scales, mean, inverse)
                finish_all(0, task)
            call += 1
        if cuda.threadIdx.x == 0:
            counters[team] = int32(call)

    return reduce_norm
