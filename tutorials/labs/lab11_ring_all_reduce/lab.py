"""Lab 11: its steps and checks."""

import numpy as np
from grader import Lab, close, fail, gamma, same

MESSAGES = ("send", "receive", "start_send", "start_receive")

lab = Lab(
    title="Ring all-reduce",
    goal="Add up an array over ranks with messages to one neighbour, and no byte too many.",
    needs="a laptop; MPI for the second tier",
    ranks=True,
)


def around(student, rng, function, ranks, length, given=None):
    """Run a function of the lab on random numbers; return what it did, and what it was given."""
    given = given or [rng.normal(size=length).astype(np.float32) for _ in range(ranks)]
    ran = student.ranks(ranks, function, lambda rank: (given[rank],), allow=MESSAGES)
    for rank, value in enumerate(ran.values):
        if not isinstance(value, np.ndarray) or value.shape != (length,):
            fail(f"{function}(...) on rank {rank} must return x, of shape [{length}].")
    return ran, given


def total(given):
    """Return the sum in float64, and how far one in float32 may be from it, in any order."""
    numbers = np.array(given, np.float64)
    return numbers.sum(axis=0), gamma(len(given)) * np.abs(numbers).sum(axis=0)


def frugal(ran, length, what, rounds=1):
    """Fail if a rank has sent more messages or numbers than a ring needs, or to somebody else."""
    ranks = len(ran.values)
    for rank in range(ranks):
        to = {event[1] for event in ran.events[rank] if event[0] == "start_send"}
        if to - {(rank + 1) % ranks}:
            fail(f"In {what} rank {rank} sends to rank {max(to)}. The ring goes to the right only.")
        sent = ran.traffic[rank]
        most = rounds * (ranks - 1)
        if sent.messages > most:
            fail(f"In {what} rank {rank} sends {sent.messages} messages; {most} are enough.")
        # All chunks but the smallest.
        most = rounds * (length - length // ranks)
        if sent.elements > most:
            fail(
                f"In {what} rank {rank} of {ranks} sends {sent.elements} numbers of an array of"
                f" {length}; {most} are enough. A round moves one chunk, not the whole array."
            )


cut = lab.step("Cut the array")


@cut.check("cuts even chunks that are everything, once", points=1)
def _(student, rng):
    for length, ranks in ((12, 4), (13, 4), (15, 4), (3, 4), (0, 2), (int(rng.integers(50)), 7)):
        ends = student.call("chunk_ends", length, ranks)
        what = f"chunk_ends({length}, {ranks})"
        if len(ends) != ranks + 1 or ends[0] != 0 or ends[-1] != length:
            fail(f"{what} is {ends}: {ranks + 1} numbers from 0 to {length} are needed.")
        sizes = np.diff(ends)
        if sizes.min() < 0 or sizes.max() - sizes.min() > 1:
            fail(f"{what} is {ends}: chunks of {sizes.tolist()} numbers are uneven.")


add = lab.step("Reduce-scatter")


def chunk_of(student, length, ranks, number):
    """Return the slice of a chunk as the student's own `chunk_ends` cuts it."""
    ends = student.call("chunk_ends", length, ranks)
    return slice(ends[number % ranks], ends[number % ranks + 1])


@add.check("leaves each rank the sum of its chunk", points=2)
def _(student, rng):
    for ranks, length in ((2, 6), (4, 8), (1, 3), (3, 9)):
        ran, given = around(student, rng, "reduce_scatter", ranks, length)
        right, bound = total(given)
        for rank, value in enumerate(ran.values):
            mine = chunk_of(student, length, ranks, rank + 1)
            what = f"chunk {(rank + 1) % ranks} on rank {rank} of {ranks}, n = {length}"
            close(value[mine], right[mine], bound[mine], what)


@add.check("adds up uneven and empty chunks", points=1)
def _(student, rng):
    for ranks, length in ((4, 11), (4, 3)):
        ran, given = around(student, rng, "reduce_scatter", ranks, length)
        right, bound = total(given)
        for rank, value in enumerate(ran.values):
            mine = chunk_of(student, length, ranks, rank + 1)
            what = f"chunk {(rank + 1) % ranks} on rank {rank} of {ranks}, n = {length}"
            close(value[mine], right[mine], bound[mine], what)


@add.check("sends a chunk a round, to the right", points=2)
def _(student, rng):
    ran, _ = around(student, rng, "reduce_scatter", 4, 40)
    frugal(ran, 40, "reduce_scatter")


gather = lab.step("All-gather")


@gather.check("hands the sums to all", points=2)
def _(student, rng):
    for ranks, length in ((2, 6), (4, 8), (1, 3), (4, 11), (4, 3)):
        right = rng.normal(size=length).astype(np.float32)
        given = []
        for rank in range(ranks):
            x = rng.normal(size=length).astype(np.float32)
            mine = chunk_of(student, length, ranks, rank + 1)
            x[mine] = right[mine]
            given.append(x)
        ran, _ = around(student, rng, "all_gather", ranks, length, given)
        for rank, value in enumerate(ran.values):
            same(value, right, f"x after all_gather on rank {rank} of {ranks}, n = {length}")


@gather.check("sends a chunk a round, to the right", points=1)
def _(student, rng):
    ran, _ = around(student, rng, "all_gather", 4, 40)
    frugal(ran, 40, "all_gather")


@gather.check("completes an all-reduce: the same bits, no byte too many", points=2)
def _(student, rng):
    ran, given = around(student, rng, "all_reduce", 4, 22)
    right, bound = total(given)
    for rank, value in enumerate(ran.values):
        close(value, right, bound, f"x after all_reduce on rank {rank} of 4, n = 22")
        same(value.tobytes(), ran.values[0].tobytes(), f"the bits of x on rank {rank}")
    frugal(ran, 22, "all_reduce", rounds=2)
