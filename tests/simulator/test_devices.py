"""Several devices at once: what flags order between them, what they do not, and who runs when."""

import numpy as np
import pytest
from numba import cuda, int32

from llm_numba.kernels import ptx
from llm_numba.simulator import simulate_devices
from llm_numba.simulator.errors import (
    DeadlockError,
    RaceError,
    UnsupportedError,
)

THREADS = 40
ORDERS = [("ordered", 0), *(("random", seed) for seed in range(2))]
each_order = pytest.mark.parametrize(("schedule", "seed"), ORDERS)


def takes_turns(load, store):
    """A kernel in which devices change an array in turns, by flags of some kind."""

    @cuda.jit
    def take_turns(flags, x, rank, ranks, rounds):
        t = cuda.threadIdx.x
        for turn in range(rank, rounds, ranks):
            if t == 0:
                while load(flags, 0) < turn:
                    pass
            cuda.syncthreads()
            x[t] = 2 * x[t] + rank
            cuda.syncthreads()
            if t == 0:
                store(flags, 0, int32(turn + 1))

    return take_turns


@cuda.jit(device=True)
def store_plainly(flags, index, value):
    flags[index] = value


for_all = takes_turns(ptx.load_acquire_system, ptx.store_release_system)
for_one_device = takes_turns(ptx.load_acquire, ptx.store_release)
released_for_one = takes_turns(ptx.load_acquire_system, ptx.store_release)
acquired_for_one = takes_turns(ptx.load_acquire, ptx.store_release_system)
stored_plainly = takes_turns(ptx.load_acquire_system, store_plainly)


def turns(kernel, ranks=3, rounds=7):
    """Queues in which each device has one launch, and the array that they change."""
    flags, x = np.zeros(1, np.int32), np.zeros(THREADS, np.int64)
    return [[(kernel, 1, THREADS, (flags, x, rank, ranks, rounds))] for rank in range(ranks)], x


@each_order
def test_flags_for_all_devices_order_what_devices_do(schedule, seed):
    queues, x = turns(for_all)
    simulate_devices(queues, schedule=schedule, seed=seed)
    expected = 0
    for turn in range(7):
        expected = 2 * expected + turn % 3
    assert (x == expected).all()


@each_order
@pytest.mark.parametrize(
    "kernel", [for_one_device, released_for_one, acquired_for_one, stored_plainly]
)
def test_flags_for_one_device_tell_another_nothing(kernel, schedule, seed):
    with pytest.raises(RaceError, match="of block 0 of device"):
        simulate_devices(turns(kernel)[0], schedule=schedule, seed=seed)


@cuda.jit
def hand_over(flags, x, out):
    t = cuda.threadIdx.x
    if cuda.blockIdx.x == 0:
        x[t] = t
        cuda.syncthreads()
        if t == 0:
            ptx.store_release(flags, 0, int32(1))
    else:
        if t == 0:
            while ptx.load_acquire(flags, 0) == 0:
                pass
        cuda.syncthreads()
        out[t] = x[t]


@each_order
def test_flags_for_one_device_order_what_its_blocks_do_beside_other_devices(schedule, seed):
    arrays = [(np.zeros(1, np.int32), np.zeros(THREADS), np.zeros(THREADS)) for device in range(2)]
    queues = [[(hand_over, 2, THREADS, each)] for each in arrays]
    simulate_devices(queues, schedule=schedule, seed=seed)
    for _, _, out in arrays:
        assert (out == np.arange(THREADS)).all()


# -- Launches one after another, and side by side -----------------------------------------------


@cuda.jit
def shift(x, y):
    i = cuda.grid(1)
    y[(i + 1) % y.size] = x[i] + 1


@each_order
def test_launches_of_one_device_are_ordered(schedule, seed):
    x, y = np.arange(64), np.zeros(64, np.int64)
    launches = [(shift, 2, 32, (x, y)), (shift, 1, 64, (y, x)), (shift, 2, 32, (x, y))]
    simulate_devices([launches, []], schedule=schedule, seed=seed)
    np.testing.assert_array_equal(y, np.roll(np.arange(64), 3) + 3)


@each_order
def test_launches_of_two_devices_are_not(schedule, seed):
    x, y, z = np.arange(64), np.zeros(64, np.int64), np.zeros(64, np.int64)
    queues = [[(shift, 2, 32, (x, y))], [(shift, 1, 64, (z, z.copy())), (shift, 1, 64, (y, z))]]
    with pytest.raises(RaceError) as caught:
        simulate_devices(queues, schedule=schedule, seed=seed)
    assert "of device 0" in caught.value.cause
    assert "of device 1" in caught.value.cause
    assert caught.value.line == shift.py_func.__code__.co_firstlineno + 3


@cuda.jit
def read_elsewhere(x, y):
    y[0] = x[5]


def test_a_race_with_another_kernel_names_its_line():
    x, y, z = np.arange(64), np.zeros(64, np.int64), np.zeros(1, np.int64)
    queues = [[(shift, 2, 32, (x, y))], [(read_elsewhere, 1, 1, (y, z))]]
    with pytest.raises(RaceError) as caught:
        simulate_devices(queues, schedule="ordered")
    assert "thread 0 of block 0 of device 1 reads an element of `x`" in caught.value.cause
    assert "thread 4 of block 0 of device 0 wrote" in caught.value.cause
    assert caught.value.related == ((__file__, shift.py_func.__code__.co_firstlineno + 3),)


@cuda.jit
def count(counter):
    cuda.atomic.add(counter, 0, 1)


def test_atomic_operations_are_atomic_for_their_own_device():
    simulate_devices([[(count, 2, 32, (np.zeros(1, np.int64),))] for device in range(2)])
    shared = np.zeros(1, np.int64)
    with pytest.raises(RaceError):
        simulate_devices([[(count, 2, 32, (shared,))] for device in range(2)])


# -- Who runs when ------------------------------------------------------------------------------


@cuda.jit
def note_lead(done, leads, rank):
    """Say that one more launch is done, and how many fewer the other device has done."""
    mine = ptx.load_acquire_system(done, rank)
    leads[mine] = mine - ptx.load_acquire_system(done, 1 - rank)
    ptx.store_release_system(done, rank, int32(mine + 1))


def test_devices_run_far_ahead_of_each_other_in_the_random_schedule():
    leads = np.zeros((8, 2, 20), np.int64)
    for seed in range(8):
        done = np.zeros(2, np.int32)
        queues = [[(note_lead, 1, 1, (done, leads[seed, rank], rank))] * 20 for rank in range(2)]
        simulate_devices(queues, seed=seed)
    assert (leads.max(axis=(0, 2)) > 10).all()
    assert (leads.min(axis=(0, 2)) < 0).all()


@cuda.jit
def wait(flags, rank):
    while ptx.load_acquire_system(flags, rank) == 0:
        pass


@each_order
def test_devices_that_wait_for_what_nobody_does_are_a_deadlock(schedule, seed):
    flags = np.zeros(2, np.int32)
    queues = [[(wait, 1, 4, (flags, rank))] for rank in (0, 1)]
    with pytest.raises(DeadlockError, match="of device"):
        simulate_devices(queues, schedule=schedule, seed=seed)


@cuda.jit
def work_then_release(flags, x, rounds):
    for _ in range(rounds):
        for i in range(x.size):
            if x[i] < 0:
                flags[1] = 7
    ptx.store_release_system(flags, 0, int32(1))


@each_order
def test_who_works_long_without_a_store_keeps_the_others_waiting(schedule, seed):
    flags, x = np.zeros(2, np.int32), np.zeros(30)
    queues = [[(wait, 1, 32, (flags, 0))], [(work_then_release, 1, 1, (flags, x, 40))]]
    simulate_devices(queues, schedule=schedule, seed=seed)
    assert flags.tolist() == [1, 0]


@pytest.mark.parametrize("threads", [1024, 32])
def test_a_launch_must_fit_as_a_whole(threads):
    x = np.zeros(4)
    with pytest.raises(UnsupportedError, match=f"The {32768 + threads} threads of read_elsewhere"):
        simulate_devices([[(read_elsewhere, 32768 // threads + 1, threads, (x, x))]])


def test_there_is_no_other_schedule():
    with pytest.raises(UnsupportedError, match="no schedule 'fair'"):
        simulate_devices([], schedule="fair")
