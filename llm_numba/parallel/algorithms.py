r"""Operations of all ranks made of messages: who sends what to whom, round by round.

Nothing here knows what carries a message or where an array lies. So the same lines run over MPI,
between threads, on arrays of the host and of a device.

::

    doubling, 4 ranks               ring, 4 ranks: part 0 on its way

    round 1   0 <-> 1   2 <-> 3     add       1 -> 2 -> 3 -> 0    rank 0 has the sum of part 0
    round 2   0 <-> 2   1 <-> 3     pass on   0 -> 1 -> 2 -> 3    all have it

With P ranks and n bytes:

==================== ============= ============================== =============================
                     rounds        bytes that a rank sends        who talks to whom
==================== ============= ============================== =============================
doubling             log2 P        n log2 P                       pairs, another in each round
ring                 2 (P - 1)     2 n (P - 1) / P, the fewest    each rank to the next
at once              2             2 n (P - 1) / P                all to all
==================== ============= ============================== =============================

A short array takes as long as there are rounds, so it goes by doubling. A long one takes as long
as there are bytes. Around the ring a sum travels from rank to rank; numbers of 16 bits would be
rounded at each. They go at once: each rank gets its part of everybody, adds in float32, and rounds
once.

Sources: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH", 2005; Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of
Workstations", 2009.
"""

import numpy as np

from llm_numba import ops
from llm_numba.parallel.communicator import Communicator
from llm_numba.reference.rank_sums import Reduction
from llm_numba.runtime import Array, by_host, empty, kind_of


def all_reduce_by_doubling(comm: Communicator, x: Array, op: Reduction) -> None:
    """Add up an array over all ranks, in pairs that are twice as far apart in each round.

    If P is no power of two, the ranks beyond the last one first give their arrays to others, and
    get the sum at the end.

    Parameters
    ----------
    comm : Communicator
    x : number array
        In place. Sums of 16-bit numbers travel as float32.
    op : {"sum", "max"}
    """
    paired = 1 << (comm.size.bit_length() - 1)
    mine = _widened(x.reshape(-1))
    if comm.rank >= paired:
        exchange(comm, [], [(mine, comm.rank - paired)])
        exchange(comm, [(mine, comm.rank - paired)], [])
    else:
        stands_in = comm.rank + paired < comm.size
        if stands_in:
            both = _beside(mine, place=0)
            exchange(comm, [(both[1], comm.rank + paired)], [])
            mine = ops.combine_parts(both, op)
        distance = 1
        while distance < paired:
            other = comm.rank ^ distance
            # Both add in the same order, so that they get the same bits.
            both = _beside(mine, place=int(comm.rank > other))
            exchange(comm, [(both[int(comm.rank < other)], other)], [(mine, other)])
            mine = ops.combine_parts(both, op)
            distance *= 2
        if stands_in:
            exchange(comm, [], [(mine, comm.rank + paired)])
    _narrow(mine, x)


def reduce_around(comm: Communicator, parts: list[Array], op: Reduction = "sum") -> Array:
    """Add up one part for each rank; a sum visits the ranks one after another, and adds theirs.

    Parameters
    ----------
    comm : Communicator
    parts : list of P number arrays [n_r]
        One-dimensional; part r ends at rank r.
    op : {"sum", "max"}

    Returns
    -------
    as parts [n]
        The sum of this rank's part, a new array: added from the next rank's on, around the ring.
    """
    travelling = parts[comm.rank - 1]
    for turn in range(comm.size - 1):
        own = parts[(comm.rank - turn - 2) % comm.size]
        both = _beside(own, place=1)
        exchange(comm, [(both[0], _previous(comm))], [(travelling, _next(comm))])
        travelling = ops.combine_parts(both, op)
    return travelling


def reduce_in_place(comm: Communicator, parts: list[Array], op: Reduction = "sum") -> None:
    """Add up one part for each rank, as :func:`reduce_around`, and keep each sum where it is made.

    The numbers that come are added to those that are there. So the memory is read twice and written
    once, nothing is put beside anything else first, and a sum is sent on from where it was made.

    Parameters
    ----------
    comm : Communicator
    parts : list of P number arrays [n_r]
        One-dimensional. Overwritten: part r by the sum at rank r, the others by sums on their way.
    op : {"sum", "max"}
    """
    for turn in range(comm.size - 1):
        sent, own = (parts[(comm.rank - turn - back) % comm.size] for back in (1, 2))
        received = empty(own.shape, own.dtype, like=own)
        exchange(comm, [(received, _previous(comm))], [(sent, _next(comm))])
        _join(received, own, op)


def reduce_at_once(comm: Communicator, parts: list[Array], op: Reduction = "sum") -> Array:
    """Add up one part for each rank, which gets it from everybody in one round.

    Parameters
    ----------
    comm : Communicator
    parts : list of P number arrays [n_r]
        One-dimensional; part r goes to rank r.
    op : {"sum", "max"}

    Returns
    -------
    as parts [n]
        The sum of this rank's part, a new array: added in the order of ranks, and rounded once.
    """
    own = parts[comm.rank]
    everybody = empty((comm.size, own.size), own.dtype, like=own)
    everybody[comm.rank] = own
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    exchange(
        comm, [(everybody[rank], rank) for rank in others], [(parts[rank], rank) for rank in others]
    )
    return ops.combine_parts(everybody, op)


@by_host
def gather_around(comm: Communicator, parts: list[Array]) -> None:
    """Give all ranks the parts of all: each passes on what it got last.

    Parameters
    ----------
    comm : Communicator
    parts : list of P arrays
        This rank's own is there; the others are written.
    """
    for turn in range(comm.size - 1):
        sent, out = (parts[(comm.rank - turn - back) % comm.size] for back in (0, 1))
        exchange(comm, [(out, _previous(comm))], [(sent, _next(comm))])


def gather_at_once(comm: Communicator, parts: list[Array]) -> None:
    """Give all ranks the parts of all, in one round.

    Parameters
    ----------
    comm : Communicator
    parts : list of P arrays
        This rank's own is there; the others are written.
    """
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    exchange(
        comm,
        [(parts[rank], rank) for rank in others],
        [(parts[comm.rank], rank) for rank in others],
    )


@by_host
def broadcast_by_doubling(comm: Communicator, x: Array, root: int) -> None:
    """Give all ranks what one has; twice as many have it after each round.

    Parameters
    ----------
    comm : Communicator
    x : array
        In place.
    root : int
    """
    place = (comm.rank - root) % comm.size
    have = 1
    while have < comm.size:
        if place < have and place + have < comm.size:
            comm.send(x, (comm.rank + have) % comm.size)
        elif have <= place < 2 * have:
            comm.receive(x, (comm.rank - have) % comm.size)
        have *= 2


@by_host
def exchange(
    comm: Communicator, receives: list[tuple[Array, int]], sends: list[tuple[Array, int]]
) -> None:
    """Receive and send arrays, whichever the other ranks do first.

    Parameters
    ----------
    comm : Communicator
    receives : list of (array, int)
        Where each goes, and from which rank it comes.
    sends : list of (array, int)
        Each, and to which rank it goes.
    """
    transfers = [comm.start_receive(out, source) for out, source in receives]
    transfers += [comm.start_send(x, to) for x, to in sends]
    for transfer in transfers:
        transfer.wait()


def cut(x: Array, count: int) -> list[Array]:
    """Cut an array into parts of nearly one length.

    Parameters
    ----------
    x : array
        C-contiguous.
    count : int
        P.

    Returns
    -------
    list of P arrays [n_r]
        Views of its numbers in a row.
    """
    flat = x.reshape(-1)
    return [flat[x.size * p // count : x.size * (p + 1) // count] for p in range(count)]


def _join(received: Array, own: Array, op: Reduction) -> None:
    """Add to an array what has come for it."""
    if kind_of(own) != "host" and op == "sum" and own.dtype == np.float32:
        ops.add(received, own, out=own)
        return
    both = _beside(own, place=1)
    both[0] = received
    own[...] = ops.combine_parts(both, op)


def _next(comm: Communicator) -> int:
    return (comm.rank + 1) % comm.size


def _previous(comm: Communicator) -> int:
    return (comm.rank - 1) % comm.size


def _beside(x: Array, place: int) -> Array:
    """Return two rows, one of them a copy of an array, the other to be received."""
    both = empty((2, x.size), x.dtype, like=x)
    both[place] = x
    return both


def is_short(x: Array) -> bool:
    """Tell whether an array's numbers have 16 bits, and are added in float32.

    Parameters
    ----------
    x : number array
    """
    return x.dtype.kind not in "iu" and x.dtype.itemsize == 2


def _widened(x: Array) -> Array:
    return ops.convert(x, empty(x.shape, np.float32, like=x)) if is_short(x) else x


def _narrow(total: Array, x: Array) -> None:
    if is_short(x):
        ops.convert(total.reshape(x.shape), x)
    elif total is not x:
        x[...] = total.reshape(x.shape)
