"""Blocks of several GPUs that work together: how they meet, and whose memory they write.

Block b of each rank's grid forms a *team* with block b of all others. It handles the same numbers
as they do, and needs nothing of any other block. So each team has flags, counters and memory of its
own, and what is said here of one holds for all, whatever grid a launch has:

::

    in the memory of each rank
      flags      [teams, P]          who has come how far; written by the others, read by this rank
      slots      [2, teams, room]    what this rank shows; written by it, read by the others
    of a rank alone
      counters   [teams]             calls that the team has been through

A call with number c:

1. A rank copies what it brings into slot ``c % 2``.
2. It *releases* the number ``2 c + 1`` into its flag on every rank, and waits until each rank's
   flag on its own has reached that number. What the others copied may be read now.
3. It reads their slots. Nobody tells the others that it is done.

Why may call c overwrite what was shown in call c - 2? A rank that writes in c has met all others in
c - 1. Each of them came to that meeting behind its own call c - 2: its launch, or its round of the
loop, had ended, with all reads. With one slot in place of two this would not hold: a rank that is
through with call c - 1 may write in c while a slow one still reads what it showed in c - 1.

The numbers only grow, as nobody sets a flag back. A rank waits for *at least* its number, for a
fast one may be at the next meeting already, though never two ahead. The counters live in memory, so
that a replayed CUDA graph, whose arguments are always the same, counts on. After 2^30 calls the
numbers wrap around; differences in 32 bits do not mind.
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, int32, int64, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.packets import widened
from llm_numba.kernels.unrolled import unrolled

FLAGS, SLOTS = 0, 1  # rows of the table of addresses

# Packets that a thread has under way before it uses the first, of all ranks together. What keeps a
# link busy is its latency times its bandwidth, on NVLink most of a MiB: of 64 blocks of 256 threads
# three packets each, and twice that as each waits for its last. A GPU's own memory wants no less.
_COPIED = 8
_COPIED_WORDS = 4 * _COPIED
_ADDED = 16


class PeerLink(NamedTuple):
    """What a rank has of the others: all that a collective kernel takes beside its operands.

    Attributes
    ----------
    rank : int
    ranks : int
        P, from 2 to 8.
    flags : int32 [teams, P]
        In memory that all ranks see, zeros at first.
    slots : uint8 [2 * teams * bytes]
        Likewise; a multiple of 256 bytes for each team.
    lines : uint64 [2 * teams * P * words]
        Likewise, zeros at first; see :mod:`llm_numba.kernels.peer_lines`.
    addresses : int64 [3, P]
        Where each rank's flags, slots and lines are, as this rank sees them.
    counters : int32 [teams]
        In memory of this rank alone, zeros at first.
    calls : uint32 [teams]
        Likewise, of what goes by lines.
    """

    rank: int
    ranks: int
    flags: Any
    slots: Any
    lines: Any
    addresses: Any
    counters: Any
    calls: Any


@cuda.jit(device=True)
def slot_of(call, team, counters, room):
    """Return the place of the team's room in the slot of a call, in elements."""
    return ((call & 1) * counters.size + team) * room


@functools.cache
def meeting(ranks):
    """Make the function with which a block waits for its team.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    device function
        ``(flags, addresses, rank, number)``. What the block's threads wrote before may be read by
        the team's threads afterwards.
    """

    @cuda.jit(device=True)
    def meet(flags, addresses, rank, number):
        """Tell all ranks that this one has come to a number, and wait until they have."""
        # The threads that release publish what all threads of the block wrote: after a barrier.
        cuda.syncthreads()
        other, team = cuda.threadIdx.x, cuda.blockIdx.x * ranks
        if other < ranks:
            # A flag lies with the rank that reads it, so nobody polls over the link.
            theirs = ptx.at_address(flags, addresses[FLAGS, other])
            ptx.store_release_system(theirs, team + rank, int32(number))
            while int32(ptx.load_acquire_system(flags, team + other) - number) < 0:
                pass
        cuda.syncthreads()

    return meet


@cuda.jit(device=True)
def copy(source, start, target, begin, count, in_packets):
    """Copy elements, packets of 16 bytes as far as that goes, if it may be done; many at a time.

    Parameters
    ----------
    source, target : array
        Of one dtype, with one axis.
    start, begin : int
        The first element, there and here.
    count : int
    in_packets : int
        Whether both places are aligned to 16 bytes; else 0.
    """
    words = cuda.local.array(_COPIED_WORDS, uint32)
    width, apart = ptx.items16(source), cuda.blockDim.x
    packets = count // width if in_packets else 0
    for first in range(cuda.threadIdx.x, packets, _COPIED * apart):
        for j in range(_COPIED):
            k = first + j * apart
            loaded = ptx.load_raw16_or_zeros(source, start + k * width, k < packets)
            for w in range(4):
                words[4 * j + w] = loaded[w]
        for j in range(_COPIED):
            k, at = first + j * apart, 4 * j
            if k < packets:
                packet = words[at], words[at + 1], words[at + 2], words[at + 3]
                ptx.store_raw16(target, begin + k * width, packet)
    for i in range(packets * width + cuda.threadIdx.x, count, cuda.blockDim.x):
        target[begin + i] = source[start + i]


@functools.cache
def packet_adder(ranks):
    """Make the function that adds up packets of 16 bytes, which a thread has of all ranks.

    Every rank adds in the order of ranks, in float32, and rounds once: so all get the same bits.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    device function
        ``(like, words, first, apart)`` to a tuple of 4 or 8 float32; `words` is local uint32, with
        rank r's packet at ``first + apart * r``.
    """

    @cuda.jit(device=True)
    def add_packets(like, words, first, apart):
        """Rank 0's comes first, on every rank."""
        total = widened(like, words, first)
        for r in range(1, ranks):
            values = widened(like, words, first + apart * r)
            for e in range(ptx.items16(like)):
                total = ptx.with_item(total, e, total[e] + values[e])
        return total

    return add_packets


@functools.cache
def adder(ranks):
    """Make the function that adds up what all ranks show; see :func:`packet_adder`.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    device function
        ``(slots, addresses, at, out, begin, count, in_packets)``.
    """
    add_packets, at_once = packet_adder(ranks), _ADDED // ranks
    words_held = 4 * ranks * at_once

    @cuda.jit(device=True, forceinline=True)
    def load_one(i, operands):
        """Load packet ``i % at_once`` of rank ``i // at_once``, if the vector has it."""
        slots, places, at, first, packets, words = operands
        theirs = ptx.at_address(slots, places[i // at_once])
        k = first + i % at_once * cuda.blockDim.x
        there = at + k * ptx.items16(slots)
        loaded = ptx.load_raw16_or_zeros(theirs, there, k < packets)
        for w in range(4):
            words[4 * i + w] = loaded[w]

    @cuda.jit(device=True, forceinline=True)
    def add_one(j, operands):
        """Add up packet j of all ranks."""
        slots, out, begin, first, packets, words = operands
        k = first + j * cuda.blockDim.x
        if k < packets:
            total = add_packets(slots, words, j, at_once)
            ptx.store16(out, begin + k * ptx.items16(slots), total)

    load_all, add_all = unrolled(ranks * at_once, load_one), unrolled(at_once, add_one)

    @cuda.jit(device=True)
    def add(slots, addresses, at, out, begin, count, in_packets):
        """Add `count` elements from `at` on over the ranks' slots, to `out` from `begin` on."""
        words, places = cuda.local.array(words_held, uint32), cuda.local.array(ranks, int64)
        width = ptx.items16(slots)
        packets = count // width if in_packets else 0
        for r in range(ranks):
            places[r] = addresses[SLOTS, r]
        for first in range(cuda.threadIdx.x, packets, at_once * cuda.blockDim.x):
            # All of them first, so that one trip over the link is waited for and not many.
            load_all(0, (slots, places, at, first, packets, words))
            add_all(0, (slots, out, begin, first, packets, words))
        for i in range(packets * width + cuda.threadIdx.x, count, cuda.blockDim.x):
            total = ptx.to_float(ptx.at_address(slots, places[0])[at + i])
            for r in range(1, ranks):
                total += ptx.to_float(ptx.at_address(slots, places[r])[at + i])
            out[begin + i] = ptx.from_float(out, total)

    return add
