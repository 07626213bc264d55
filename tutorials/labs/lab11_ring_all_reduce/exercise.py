"""Lab 11: an all-reduce made of messages to the right-hand neighbour.

P ranks stand in a ring: rank r sends to rank (r + 1) % P and receives from rank (r - 1) % P. Each
has an array of n numbers, cut into P chunks. In P - 1 rounds the chunks are added up on their way
around (reduce-scatter), in P - 1 more the sums are handed around (all-gather).
"""

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
    raise NotImplementedError("lab 11, step 1")
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
    raise NotImplementedError("lab 11, step 2")
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
    raise NotImplementedError("lab 11, step 3")
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
