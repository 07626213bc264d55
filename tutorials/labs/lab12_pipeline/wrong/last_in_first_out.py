"""The micro-batches come out in the opposite order."""
# Rejected: step 2, "computes what one program would": micro-batch 0 of

import numpy as np


def timetable(stages, micro_batches):
    """Say which stage computes what when: fill, run, drain.

    Parameters
    ----------
    stages : int
        R.
    micro_batches : int
        M. They are there from the beginning, and do not wait for each other.

    Returns
    -------
    list of list
        A row for each stage: the number of the micro-batch that it computes in slot 0, 1, 2, ...,
        or None where it has nothing to do. All rows end with the slot in which the last
        micro-batch leaves the last stage.
    """
    # --- your code: step 1 ---
    slots = micro_batches + stages - 1
    return [
        [t - stage if 0 <= t - stage < micro_batches else None for t in range(slots)]
        for stage in range(stages)
    ]
    # --- end ---


def bubble(table):
    """Return which part of a timetable's slots is idle: a number from 0 to 1.

    Parameters
    ----------
    table : list of list
        See `timetable`.

    Returns
    -------
    float
    """
    # --- your code: step 1 ---
    cells = [cell for row in table for cell in row]
    return cells.count(None) / len(cells)
    # --- end ---


def layer(comm, x, weight, label):
    """Compute a stage's layer. It takes one slot.

    Parameters
    ----------
    comm : Communicator
    x : float32 [N, E]
    weight : float32 [E, E]
        This stage's.
    label : str
        For the timetable that the grader draws: the number of the micro-batch, or of the group.

    Returns
    -------
    float32 [N, E]
    """
    comm.tick(label)
    return np.tanh(x @ weight)


def run_micro_batches(comm, weight, batches):
    """Send micro-batches through all stages.

    Requirements: a stage begins with a micro-batch as soon as it has it and is free, so that all
    of them take M + R - 1 slots. A stage boundary is crossed by one message for each micro-batch,
    and there are no other messages. Nobody waits for somebody who waits.

    Parameters
    ----------
    comm : Communicator
        ``rank``, ``size``, ``send(array, to)``, ``receive(array, source)``, and the two that return
        at once with a transfer to ``wait()`` for: ``start_send`` and ``start_receive``.
    weight : float32 [E, E]
        This stage's.
    batches : list of float32 [N, E]
        On stage 0 the M micro-batches. On all other stages arrays of the same shapes that hold
        nothing: receive into them.

    Returns
    -------
    list of float32 [N, E]
        On the last stage what comes out of it, in the order of the micro-batches; elsewhere empty.
    """
    # --- your code: step 2 ---
    outputs, sending = [], []
    for number, x in enumerate(batches):
        if comm.rank > 0:
            comm.receive(x, comm.rank - 1)
        y = layer(comm, x, weight, f"{number}")
        if comm.rank == comm.size - 1:
            outputs.insert(0, y)
        else:
            sending.append(comm.start_send(y, comm.rank + 1))
    for transfer in sending:
        transfer.wait()
    return outputs
    # --- end ---


def embed(tokens, width):
    """Return hidden states for tokens: what stage 0 begins with.

    Parameters
    ----------
    tokens : int32 [N]
    width : int
        E.

    Returns
    -------
    float32 [N, E]
    """
    places = np.arange(1, width + 1, dtype=np.float32)
    return np.sin((tokens[:, None] + 1).astype(np.float32) * places)


def choose(x):
    """Return the next tokens for hidden states: what the last stage ends with.

    Parameters
    ----------
    x : float32 [N, E]

    Returns
    -------
    int32 [N]
    """
    return x.argmax(axis=1).astype(np.int32)


def decode_rounds(comm, weight, groups, rounds):
    """Let groups of sequences decode in turn: 0, 1, ..., G - 1, 0, 1, ..., `rounds` times each.

    In each round stage 0 embeds a group's tokens, and the stages hand its hidden state down. The
    last one chooses the next tokens, and sends them to stage 0, where the group's next round
    begins with them.

    Requirements: with G >= R groups no stage is idle but for filling and draining: G rounds + R - 1
    slots. Nobody waits for somebody who waits, however many groups there are. Messages: a hidden
    state [N, E] a stage boundary, group and round; tokens [N] a group and round; no others.

    Parameters
    ----------
    comm : Communicator
        Of at least two ranks.
    weight : float32 [E, E]
        This stage's.
    groups : list of int32 [N]
        On stage 0 the first tokens of the G groups. On all other stages arrays of the same shapes
        whose contents mean nothing.
    rounds : int
        At least 1.

    Returns
    -------
    list of list of int32 [N]
        On stage 0, for each group, the tokens that were chosen in round 0, 1, 2, ...; elsewhere an
        empty list.
    """
    # --- your code: step 3 ---
    first, last = 0, comm.size - 1
    chosen = [[] for _ in groups]
    sending = []
    # A round more: in it stage 0 only takes the last tokens.
    for turn in range((rounds + 1) * len(groups)):
        number, group = turn // len(groups), turn % len(groups)
        tokens = groups[group]
        if comm.rank == first and number > 0:
            tokens = np.empty_like(tokens)
            comm.receive(tokens, last)
            chosen[group].append(tokens)
        if number == rounds:
            continue
        if comm.rank == first:
            x = embed(tokens, len(weight))
        else:
            x = np.empty((len(tokens), len(weight)), np.float32)
            comm.receive(x, comm.rank - 1)
        y = layer(comm, x, weight, f"{group}")
        if comm.rank == last:
            sending.append(comm.start_send(choose(y), first))
        else:
            sending.append(comm.start_send(y, comm.rank + 1))
    for transfer in sending:
        transfer.wait()
    return chosen if comm.rank == first else []
    # --- end ---
