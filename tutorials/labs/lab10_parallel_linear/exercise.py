"""Lab 10: linear layers on P ranks: column-parallel, row-parallel, and the vocabulary.

A linear layer computes y = x W^T + b with W float32 [N, K] and b float32 [N], for x [M, K]. Each
rank is a program of its own, with a part of W. Axis letters: M tokens, E hidden numbers, F inner
numbers of the MLP, V tokens of the vocabulary, P ranks.
"""

import numpy as np


def share(count, ranks, rank):
    """Return which of `count` things are this rank's.

    Requirements: the shares of ranks 0, 1, 2, ... follow one another and are everything, once.
    Their lengths differ by at most one.

    Parameters
    ----------
    count : int
    ranks : int
        P.
    rank : int

    Returns
    -------
    begin, end : int
        The things from `begin` up to, not including, `end`.
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 10, step 1")
    # --- end ---


def column_shard(weight, bias, ranks, rank):
    """Cut out a rank's part of a column-parallel layer: some of the outputs.

    Parameters
    ----------
    weight : float32 [N, K]
    bias : float32 [N]
    ranks, rank : int

    Returns
    -------
    weight, bias : float32
        Those of the outputs that `share` gives this rank.
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 10, step 1")
    # --- end ---


def row_shard(weight, ranks, rank):
    """Cut out a rank's part of a row-parallel layer: all outputs, from some of the inputs.

    Parameters
    ----------
    weight : float32 [N, K]
    ranks, rank : int

    Returns
    -------
    float32
        That of the inputs that `share` gives this rank.
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 10, step 1")
    # --- end ---


def column_parallel(x, weight, bias):
    """Compute this rank's outputs. Nothing is sent.

    Parameters
    ----------
    x : float32 [M, K]
        All of it, the same on each rank.
    weight, bias : float32
        See `column_shard`.

    Returns
    -------
    float32 [M, this rank's outputs]
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 10, step 2")
    # --- end ---


def row_parallel(comm, x, weight, bias):
    """Compute all outputs from inputs that are spread over the ranks.

    Requirements: one all-reduce of M N numbers, and no other message. The bias counts once, not P
    times. All ranks return the same bits.

    Parameters
    ----------
    comm : Communicator
        ``rank``, ``size``, and the operations ``all_reduce(array)``, which adds up a contiguous
        array over all ranks, in place, and ``all_gather(array)``, which returns the arrays of all
        ranks one after another along the first axis.
    x : float32 [M, this rank's inputs]
    weight : float32 [N, this rank's inputs]
        See `row_shard`.
    bias : float32 [N]
        All of it, on each rank.

    Returns
    -------
    float32 [M, N]
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 10, step 2")
    # --- end ---


def gelu(x):
    """Return x times the part of a normal distribution below x (the tanh approximation)."""
    return 0.5 * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3)))


def mlp(comm, x, up, up_bias, down, down_bias):
    """Compute ``gelu(x up^T + up_bias) down^T + down_bias`` on all ranks together.

    Requirements: one all-reduce of M E numbers, and no other message. A rank uses nothing of `up`,
    `up_bias` and `down` but its own part: the rest may be NaN.

    Parameters
    ----------
    comm : Communicator
    x : float32 [M, E]
        The same on each rank.
    up, down : float32 [F, E], [E, F]
        In the shape of the whole weights. Cut out this rank's part first; a real engine would have
        loaded no more.
    up_bias, down_bias : float32 [F], [E]

    Returns
    -------
    float32 [M, E]
        The same bits on each rank.
    """
    # --- your code: step 3 ---
    raise NotImplementedError("lab 10, step 3")
    # --- end ---


def padded_head(head, ranks, rank):
    """Cut out a rank's rows of the LM head, as many on each rank.

    V need not divide among the ranks. So the head is thought to end with rows of zeros, up to the
    next multiple of P.

    Parameters
    ----------
    head : float32 [V, E]
    ranks, rank : int

    Returns
    -------
    float32 [ceil(V / P), E]
        Rows ``rank * ceil(V / P)`` and so on. Rows from V on are zeros.
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 10, step 4")
    # --- end ---


def next_tokens(comm, x, head_part, vocabulary):
    """Return the token with the largest logit for each row of x, V of them on P ranks.

    Requirements: a rank sends two numbers for each row of x, its largest logit and that one's
    token, in one all-gather. A row of padding never wins, not even if all logits are negative. Of
    equal logits the smallest token wins. All ranks return the same.

    Parameters
    ----------
    comm : Communicator
    x : float32 [M, E]
        The same on each rank.
    head_part : float32 [ceil(V / P), E]
        See `padded_head`.
    vocabulary : int
        V.

    Returns
    -------
    int64 [M]
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 10, step 4")
    # --- end ---
