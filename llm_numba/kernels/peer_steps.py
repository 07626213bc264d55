"""The kernels of :mod:`llm_numba.kernels.peer` in which ranks fetch what the others show.

How blocks of several ranks meet, :mod:`llm_numba.kernels.peer_team` says. Each kernel takes a
vector in rounds of what a team has room for; a round is a call of the protocol.
"""

import functools
from typing import Any

from numba import cuda, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.peer_team import SLOTS, adder, copy, meeting, slot_of


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
