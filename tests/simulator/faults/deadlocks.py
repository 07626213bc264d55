"""Threads that wait for what never comes."""

import numpy as np
from numba import cuda, float32

from .case import Case, ramp, zeros


@cuda.jit
def flag_that_nobody_sets(flag, out):
    """Thread 0 was to set the flag when its result is there."""
    if cuda.threadIdx.x == 1:
        out[0] = float32(1)
        cuda.threadfence()
    elif cuda.threadIdx.x == 0:
        while cuda.atomic.add(flag, 0, 0) == 0:  # FAULT
            pass
        cuda.threadfence()
        out[0] += float32(1)


@cuda.jit
def flag_that_is_set(flag, out):
    if cuda.threadIdx.x == 1:
        out[0] = float32(1)
        cuda.threadfence()
        cuda.atomic.exch(flag, 0, 1)
    elif cuda.threadIdx.x == 0:
        while cuda.atomic.add(flag, 0, 0) == 0:
            pass
        cuda.threadfence()
        out[0] += float32(1)


@cuda.jit
def wait_without_end(flag, out):
    if cuda.blockIdx.x == 0:
        while cuda.atomic.add(flag, 0, 0) == 0:  # FAULT: nobody has anything to tell
            cuda.nanosleep(100)
        out[0] = float32(1)


@cuda.jit
def wait_with_an_end(flag, out):
    if cuda.blockIdx.x == 0:
        out[0] = float32(0)
        for _ in range(150):
            if cuda.atomic.add(flag, 0, 0) != 0:
                out[0] = float32(1)
                break
            cuda.nanosleep(100)


@cuda.jit
def each_block_waits_first(flags, x, out):
    """Two blocks exchange a number."""
    mine = cuda.blockIdx.x
    other = 1 - mine
    while cuda.atomic.add(flags, other, 0) == 0:  # FAULT: both wait before they send
        pass
    x[mine] = float32(mine + 10)
    cuda.threadfence()
    cuda.atomic.exch(flags, mine, 1)
    out[mine] = x[other]


@cuda.jit
def each_block_sends_first(flags, x, out):
    mine = cuda.blockIdx.x
    other = 1 - mine
    x[mine] = float32(mine + 10)
    cuda.threadfence()
    cuda.atomic.exch(flags, mine, 1)
    while cuda.atomic.add(flags, other, 0) == 0:
        pass
    cuda.threadfence()
    out[mine] = x[other]


@cuda.jit
def lock_kept_on_one_path(lock, x, out):
    """The largest number, and how often it was raised, under a lock."""
    value = x[cuda.blockIdx.x]
    while cuda.atomic.cas(lock, 0, 0, 1) != 0:  # FAULT: a block that returned has it
        pass
    cuda.threadfence()
    if value <= out[0]:
        return
    out[0] = value
    out[1] += float32(1)
    cuda.threadfence()
    cuda.atomic.exch(lock, 0, 0)


@cuda.jit
def lock_given_back(lock, x, out):
    value = x[cuda.blockIdx.x]
    while cuda.atomic.cas(lock, 0, 0, 1) != 0:
        pass
    cuda.threadfence()
    if value > out[0]:
        out[0] = value
        out[1] += float32(1)
    cuda.threadfence()
    cuda.atomic.exch(lock, 0, 0)


@cuda.jit
def barrier_for_one_too_many(arrived, x, out):
    """A grid barrier by hand: count the blocks that have come."""
    block = cuda.blockIdx.x
    x[block] *= x[block]
    cuda.threadfence()
    cuda.atomic.add(arrived, 0, 1)
    while cuda.atomic.add(arrived, 0, 0) <= cuda.gridDim.x:  # FAULT: one more than there are
        pass
    cuda.threadfence()
    out[block] = x[(block + 1) % cuda.gridDim.x]


@cuda.jit
def barrier_for_all_blocks(arrived, x, out):
    block = cuda.blockIdx.x
    x[block] *= x[block]
    cuda.threadfence()
    cuda.atomic.add(arrived, 0, 1)
    while cuda.atomic.add(arrived, 0, 0) < cuda.gridDim.x:
        pass
    cuda.threadfence()
    out[block] = x[(block + 1) % cuda.gridDim.x]


@cuda.jit
def flag_behind_the_barrier(flag, out):
    t = cuda.threadIdx.x
    if t == 0:
        while cuda.atomic.add(flag, 0, 0) == 0:  # FAULT: thread 1 sets it behind the barrier
            pass
    cuda.syncthreads()
    if t == 1:
        cuda.atomic.exch(flag, 0, 1)
    out[t] = float32(t)


@cuda.jit
def flag_before_the_barrier(flag, out):
    t = cuda.threadIdx.x
    if t == 1:
        cuda.atomic.exch(flag, 0, 1)
    if t == 0:
        while cuda.atomic.add(flag, 0, 0) == 0:
            pass
    cuda.syncthreads()
    out[t] = float32(t)


@cuda.jit
def locks_in_either_order(locks, moves, balance, out):
    """Each block moves money between two accounts, with both locked."""
    source = moves[cuda.blockIdx.x, 0]
    target = moves[cuda.blockIdx.x, 1]
    while cuda.atomic.cas(locks, source, 0, 1) != 0:  # FAULT
        pass
    while cuda.atomic.cas(locks, target, 0, 1) != 0:  # FAULT: each may hold what the other wants
        pass
    cuda.threadfence()
    balance[source] -= float32(1)
    balance[target] += float32(1)
    out[cuda.blockIdx.x] = float32(1)
    cuda.threadfence()
    cuda.atomic.exch(locks, target, 0)
    cuda.atomic.exch(locks, source, 0)


@cuda.jit
def locks_in_one_order(locks, moves, balance, out):
    source = moves[cuda.blockIdx.x, 0]
    target = moves[cuda.blockIdx.x, 1]
    first = min(source, target)
    second = max(source, target)
    while cuda.atomic.cas(locks, first, 0, 1) != 0:
        pass
    while cuda.atomic.cas(locks, second, 0, 1) != 0:
        pass
    cuda.threadfence()
    balance[source] -= float32(1)
    balance[target] += float32(1)
    out[cuda.blockIdx.x] = float32(1)
    cuda.threadfence()
    cuda.atomic.exch(locks, second, 0)
    cuda.atomic.exch(locks, first, 0)


def flags(n: int = 1) -> np.ndarray:
    return np.zeros(n, np.int32)


CASES = (
    Case(
        "a flag that nobody sets",
        flag_that_nobody_sets,
        flag_that_is_set,
        args=lambda: (flags(), zeros(1)),
        want=lambda flag, out: np.array([2]),
        threads=(0,),
    ),
    Case(
        "a wait that nothing ends",
        wait_without_end,
        wait_with_an_end,
        args=lambda: (flags(), zeros(1)),
        want=lambda flag, out: np.zeros(1),
        grid=2,
        block=1,
        threads=(0,),
    ),
    Case(
        "two blocks that each wait for the other",
        each_block_waits_first,
        each_block_sends_first,
        args=lambda: (flags(2), zeros(2), zeros(2)),
        want=lambda flags, x, out: np.array([11, 10]),
        grid=2,
        block=1,
        threads=(0, 1),
    ),
    Case(
        "a lock that is kept on one path",
        lock_kept_on_one_path,
        lock_given_back,
        # Equal numbers: whichever comes second keeps the lock, and the third waits for it.
        args=lambda: (flags(), np.ones(3, np.float32), np.zeros(2, np.float32)),
        want=lambda lock, x, out: np.array([1, 1]),
        grid=3,
        block=1,
        threads=range(3),
    ),
    Case(
        "a barrier that waits for one block too many",
        barrier_for_one_too_many,
        barrier_for_all_blocks,
        args=lambda: (flags(), ramp(3), zeros(3)),
        want=lambda arrived, x, out: np.roll(x**2, -1),
        grid=3,
        block=1,
        threads=range(3),
    ),
    Case(
        "a flag that is set behind the barrier",
        flag_behind_the_barrier,
        flag_before_the_barrier,
        args=lambda: (flags(), zeros(32)),
        want=lambda flag, out: np.arange(32),
        threads=(0,),
    ),
)

# Found only by an order in which each block gets its first lock before either gets its second.
BY_CHANCE = Case(
    "two locks taken in either order",
    locks_in_either_order,
    locks_in_one_order,
    args=lambda: (flags(2), np.array([[0, 1], [1, 0]], np.int32), ramp(2), zeros(2)),
    want=lambda locks, moves, balance, out: np.ones(2),
    grid=2,
    block=1,
    threads=(0, 1),
)
