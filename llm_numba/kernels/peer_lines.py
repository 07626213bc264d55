"""Blocks of several GPUs that send each other packets: in one trip, without a flag.

Blocks form teams as in :mod:`llm_numba.kernels.peer_team`: block b of each rank's grid works with
block b of all others, and needs nothing of any other block. But nobody shows anything, and nobody
fetches. Each thread *pushes* its packet of 16 bytes into the memory of every other rank, as two
*lines* whose words carry the number of the call (:mod:`llm_numba.kernels.ptx.lines`), and waits in
its own memory until the packets of the others carry that number as well:

::

    in the memory of each rank
      lines      [2, teams, P, 2, room, 2]   for each sender, the first lines of all packets, then
                                             the second; written by the sender, read by this rank
    of a rank alone
      calls      [teams]                     calls that the team has been through

What a meeting orders, a flag's trip behind the data and a fetch there and back, falls away. So does
the block's barrier: a thread waits for its own words and for nothing else. The price is twice the
bytes.

A call has a number c, one more than the team's last, and is a whole launch. It writes slot c mod 2
of all others, and reads slot c mod 2 of its own.

**What is read is this call's.** A word is whole, and a thread takes it if its number is c. Numbers
that it may find there are c and older ones, c - 2 at most: see below. An older one would be
mistaken only if it equalled c in 32 bits, 2^32 calls later; a word that a long vector once wrote,
and none since, could become that old. So in two calls of 2^31, one for each slot, a rank writes all
words of the slot, those beyond its vector too. A team's first call, number 1, is one of them.

**What is overwritten has been read.** Rank A pushes call c into the slot of B that held call c - 2.
It does so behind its own launch c - 1, in which it took words of B's call c - 1; each team of a
launch has some. B stored those in its launch c - 1, which began when its launch c - 2 had ended,
with all loads of all its threads. It does not matter which thread had which word in either launch,
or how many blocks there were: a team that a launch leaves out does not count it, on any rank. With
one slot in place of two, A's call c - 1 would overwrite c - 1 words that B still waits for.

The argument asks for launches one after another. A call is a launch and not a round of a loop for
this reason: a thread of B that has no word in its last round tells nobody that it is done with the
round before. And where launches overlap (:mod:`llm_numba.kernels.ptx.overlap`), a call counts and
stores nothing until all launches before it have ended. Words are *relaxed*: no fence is between
B's last load of c - 2 and its first store of c - 1. None is needed: the store is made only because
the load has returned its word.

Source of words with numbers: NCCL's protocol LL.
"""

import functools

from numba import cuda, int32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.layernorm_added import place
from llm_numba.kernels.peer_team import PeerLink, packet_adder
from llm_numba.kernels.unrolled import unrolled

LINES = 2  # row of the table of addresses, behind those of peer_team

# uint64 words of a packet: two lines of two.
WORDS = 4
# Of a call's number, what is below 2 in the calls that write all of a slot.
_AGE = 0x7FFFFFFF
_ASKED_AT_ONCE = 4


def room_of_lines(link: PeerLink) -> int:
    """Return how many packets a team has room for.

    Parameters
    ----------
    link : PeerLink
    """
    return link.lines.size // (2 * link.calls.size * link.ranks * WORDS)


@cuda.jit(device=True)
def next_call(calls):
    """Count a call of the block's team, and return its number; a barrier of the block.

    Parameters
    ----------
    calls : uint32 [teams]

    Returns
    -------
    uint32
    """
    team = cuda.blockIdx.x
    number = uint32(calls[team] + 1)
    cuda.syncthreads()  # until all threads have read it
    if cuda.threadIdx.x == 0:
        calls[team] = number
    return number


@cuda.jit(device=True)
def inbox(number, teams, ranks, sender, room):
    """Return where a rank's packets for this block's team begin in a call, in words.

    Parameters
    ----------
    number : uint32
        Of the call.
    teams, ranks, sender : int
    room : int
        Packets of a team.
    """
    return (((number & 1) * teams + cuda.blockIdx.x) * ranks + sender) * (WORDS * room)


@functools.cache
def pusher(ranks, held):
    """Make the function with which a thread sends its packets to all other ranks.

    Parameters
    ----------
    ranks : int
    held : int
        Packets of a thread; they are ``blockDim.x`` apart.

    Returns
    -------
    device function
        ``(lines, places, calls, rank, room, number, packets, mine)``: of a team's `packets`, this
        thread's, in `mine`, local uint32 [4 held]. `places` has the ranks' lines.
    """

    @cuda.jit(device=True)
    def push(lines, places, calls, rank, room, number, packets, mine):
        """Store so that a warp's words for one rank are 512 bytes without a gap."""
        begin = inbox(number, calls.size, ranks, rank, room)
        for k in range(held):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                for r in range(ranks):
                    if r != rank:
                        theirs = ptx.at_address(lines, places[r])
                        for half in range(2):
                            at = begin + 2 * (half * room + packet)
                            low, high = mine[4 * k + 2 * half], mine[4 * k + 2 * half + 1]
                            ptx.store_line(theirs, at, low, high, number)
        if number & _AGE < 2:
            for r in range(ranks):
                if r != rank:
                    theirs = ptx.at_address(lines, places[r])
                    for line in range(packets + cuda.threadIdx.x, room, cuda.blockDim.x):
                        ptx.store_line(theirs, begin + 2 * line, uint32(0), uint32(0), number)
                        at = begin + 2 * (room + line)
                        ptx.store_line(theirs, at, uint32(0), uint32(0), number)

    return push


@functools.cache
def asker(ranks, packets):
    """Make the function with which a thread looks once whether its packets of all ranks are there.

    Parameters
    ----------
    ranks : int
    packets : int
        Of each rank.

    Returns
    -------
    device function
        ``(0, (lines, calls, rank, room, number, places, words, missing))``: of this thread's
        `places` in a team's packets. What is there goes to `words`, local uint32 [4 P packets];
        `missing`, local uint32 [P packets], has a 0 for each packet of this call.
    """

    @cuda.jit(device=True)
    def ask(i, operands):
        """Load the two lines of packet ``i % packets`` of rank ``i // packets``."""
        lines, calls, rank, room, number, places, words, missing = operands
        wrong = uint32(0)
        if i // packets != rank:
            at = inbox(number, calls.size, ranks, i // packets, room) + 2 * places[i % packets]
            a, m, b, n = ptx.load_line(lines, at)
            c, p, d, q = ptx.load_line(lines, at + 2 * room)
            words[4 * i], words[4 * i + 1] = a, b
            words[4 * i + 2], words[4 * i + 3] = c, d
            wrong = (m ^ number) | (n ^ number) | (p ^ number) | (q ^ number)
        missing[i] = wrong

    return unrolled(ranks * packets, ask)


@functools.cache
def taker(ranks, held):
    """Make the function with which a thread waits for the packets of all ranks, and adds them up.

    Parameters
    ----------
    ranks, held : int
        As of :func:`pusher`.

    Returns
    -------
    device function
        ``(0, (x, lines, calls, rank, room, number, packets, mine))``: as of :func:`pusher`; in
        `mine` are the sums then, as an array like `x` would have them.
    """
    add_packets = packet_adder(ranks)
    # As many as there are registers for: each look is a trip to L2.
    at_once = held if held * ranks <= _ASKED_AT_ONCE else 1
    asked = ranks * at_once
    ask, words_held = asker(ranks, at_once), 4 * asked

    @cuda.jit(device=True)
    def take(i, operands):
        """Look for all again in each round: the last to come then is not one of many trips."""
        x, lines, calls, rank, room, number, packets, mine = operands
        words, missing = cuda.local.array(words_held, uint32), cuda.local.array(asked, uint32)
        places, left = cuda.local.array(at_once, int32), uint32(1)
        for k in range(at_once):
            places[k] = place(i * at_once + k, packets)
        while left != 0:
            ask(0, (lines, calls, rank, room, number, places, words, missing))
            left = uint32(0)
            for j in range(asked):
                left |= missing[j]
        for k in range(at_once):
            at = 4 * (i * at_once + k)
            for r in range(ranks):
                if r == rank:
                    for w in range(4):
                        words[4 * (r * at_once + k) + w] = mine[at + w]
            rounded = ptx.round_raw16(x, add_packets(x, words, k, at_once))
            for w in range(4):
                mine[at + w] = rounded[w]

    return unrolled(held // at_once, take)
