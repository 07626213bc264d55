"""Threads that part come together again, as early as the hardware would let them."""

import numpy as np
import pytest
from numba import cuda, int32

from llm_numba.simulator import simulate
from llm_numba.simulator.values import join


def run(kernel, *arguments, block=32, grid=1, **options):
    return simulate(kernel, grid, block, arguments, **options)


def stores(report):
    """Requests of the line at the end of each kernel: one a warp if all came together."""
    return report.lines[-1].global_requests


@cuda.jit
def branches(out):
    t = cuda.threadIdx.x
    value = 0
    if t % 2 == 0:
        value = 2 * t
        if t % 4 == 0:
            value += 100
    elif t > 20:
        value = -t
    out[t] = value


def test_behind_nested_branches_the_warp_is_whole_again():
    out = np.zeros(32, np.int64)
    report = run(branches, out)
    want = [2 * t + 100 * (t % 4 == 0) if t % 2 == 0 else -t * (t > 20) for t in range(32)]
    assert out.tolist() == want
    assert stores(report) == 1
    assert report.divergent == 3


@cuda.jit
def uneven_loops(out):
    t = cuda.threadIdx.x
    total = 0
    for i in range(t):
        if i % 3 == 0:
            continue
        if i > 25:
            break
        for j in range(i % 4):
            total += j
    out[t] = total


def test_behind_loops_with_continue_and_break_the_warp_is_whole_again():
    out = np.zeros(64, np.int64)
    report = run(uneven_loops, out, block=64)
    want = []
    for t in range(64):
        rounds = [i for i in range(min(t, 28)) if i % 3]
        rounds = rounds[: next((n for n, i in enumerate(rounds) if i > 25), None)]
        want.append(sum(sum(range(i % 4)) for i in rounds))
    assert out.tolist() == want
    assert stores(report) == 2


@cuda.jit
def meet_in_each_round(x, out):
    t = cuda.threadIdx.x
    total = int32(0)
    for i in range(8):
        if (t + i) % 3 == 0:
            continue
        total += x[t]
    out[t] = total


def test_threads_that_continue_wait_at_the_end_of_the_round():
    x, out = np.ones(32, np.int32), np.zeros(32, np.int64)
    report = run(meet_in_each_round, x, out)
    # One load a round for those who stay: if the others ran ahead there would be more.
    assert report.lines[-2].global_requests == 8
    assert out.tolist() == [sum((t + i) % 3 != 0 for i in range(8)) for t in range(32)]


@cuda.jit
def while_true(out):
    t = cuda.threadIdx.x
    n = 0
    while True:
        n += 1
        if n * n > t:
            break
    out[t] = n


@cuda.jit
def while_first(out):
    """The loop is the first statement, and the function ends in it."""
    while out[cuda.threadIdx.x] < cuda.threadIdx.x:
        out[cuda.threadIdx.x] += 1


def test_loops_without_a_count():
    out = np.zeros(32, np.int64)
    assert stores(run(while_true, out)) == 1
    assert out.tolist() == [int(np.floor(np.sqrt(t))) + 1 for t in range(32)]
    out = np.zeros(32, np.int64)
    run(while_first, out)
    assert out.tolist() == list(range(32))


@cuda.jit(device=True)
def collatz(n):
    """Return early from inside a loop."""
    steps = 0
    while n > 1:
        if steps > 60:
            return -1
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


@cuda.jit
def calls(out):
    t = cuda.threadIdx.x
    out[t] = collatz(t) + collatz(t + 1)


def test_device_functions_are_laid_in_and_return_early():
    def reference(n):
        steps = 0
        while n > 1:
            if steps > 60:
                return -1
            n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
        return steps

    out = np.zeros(64, np.int64)
    report = run(calls, out, block=64)
    assert out.tolist() == [reference(t) + reference(t + 1) for t in range(64)]
    assert stores(report) == 2


@cuda.jit
def lanes_wait_for_lanes(flags, out):
    """Within one warp, each lane waits for the one before: threads are scheduled one by one."""
    t = cuda.threadIdx.x
    if t > 0:
        while cuda.atomic.add(flags, t - 1, 0) == 0:
            pass
    cuda.threadfence()
    out[0] = out[0] * 2 + t
    cuda.threadfence()
    cuda.atomic.exch(flags, t, 1)


def test_lanes_of_one_warp_may_wait_for_each_other():
    out = np.zeros(1, np.int64)
    run(lanes_wait_for_lanes, np.zeros(8, np.int32), out, block=8)
    want = 0
    for t in range(8):
        want = want * 2 + t
    assert out[0] == want


@cuda.jit
def linear_search(x, keys, out):
    t = cuda.threadIdx.x
    i = 0
    while x[i] != keys[t]:
        i += 1
    out[t] = i


def test_a_long_search_through_memory_is_no_deadlock():
    x = np.arange(5000)
    keys, out = np.array([4999, 0, 2500, 17]), np.zeros(4, np.int64)
    run(linear_search, x, keys, out, block=4)
    assert out.tolist() == keys.tolist()


KERNELS = {
    "branches": (branches, 32),
    "uneven loops": (uneven_loops, 32),
    "while": (while_true, 32),
    "calls": (calls, 40),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_schedule_changes_nothing(name):
    kernel, block = KERNELS[name]
    want = np.zeros(block, np.int64)
    run(kernel, want, block=block)
    for seed in range(5):
        out = np.zeros(block, np.int64)
        run(kernel, out, block=block, schedule="random", seed=seed)
        np.testing.assert_array_equal(out, want)


def test_a_seed_repeats_its_order():
    def order(seed):
        places = np.full(64, -1, np.int64)
        run(take_a_number, np.zeros(1, np.int32), places, block=64, schedule="random", seed=seed)
        return places.tolist()

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == list(range(64))


@cuda.jit
def take_a_number(counter, places):
    places[cuda.threadIdx.x] = cuda.atomic.add(counter, 0, 1)


@cuda.jit(device=True)
def rotate_below(values, count):
    """Pass values on; Python 3.12 and later compile the call twice, once for each way to it."""
    lane = cuda.laneid
    return cuda.shfl_sync(0xFFFFFFFF, values[lane] if lane < count else -1, lane + 1)


@cuda.jit
def one_shuffle_in_two_places(values, out):
    out[cuda.laneid] = rotate_below(values, 12)


@cuda.jit
def shuffles_on_two_lines(values, out):
    lane = cuda.laneid
    if lane < 12:
        out[lane] = cuda.shfl_sync(0xFFFFFFFF, values[lane], lane + 1)
    else:
        out[lane] = cuda.shfl_sync(0xFFFFFFFF, -1, lane + 1)


@pytest.mark.parametrize("kernel", [one_shuffle_in_two_places, shuffles_on_two_lines])
@pytest.mark.parametrize("schedule", ["ordered", "random"])
def test_lanes_meet_at_one_operation_wherever_it_stands(kernel, schedule):
    values, out = np.arange(32), np.zeros(32, np.int64)
    run(kernel, values, out, schedule=schedule)
    padded = np.where(values < 12, values, -1)
    assert out.tolist() == np.roll(padded, -1).tolist()


@cuda.jit(device=True)
def barrier_at_the_end(x):
    """The last statement, which Python 3.12 and later compile once for each way to it."""
    t = cuda.threadIdx.x
    if t < 12:
        x[t] = 1
    cuda.syncthreads()


@cuda.jit
def count_behind_barrier(x, out):
    barrier_at_the_end(x)
    out[cuda.threadIdx.x] = cuda.syncthreads_count(x[cuda.threadIdx.x])


@pytest.mark.parametrize("seed", range(4))
def test_threads_meet_at_one_barrier_wherever_it_stands(seed):
    x, out = np.zeros(64, np.int64), np.zeros(64, np.int64)
    run(count_behind_barrier, x, out, block=64, schedule="random", seed=seed)
    assert (out == 12).all()


def test_threads_that_have_set_a_tuple_meet_those_that_have_not():
    """A tuple is several registers, each as long as the group that has set it."""
    pair = (np.array([1, 2]), np.array([3, 4]))
    first, second = join([pair, None], [2, 3], np.array([2, 0, 3, 1, 4]))
    np.testing.assert_array_equal(first[[1, 3]], [1, 2])
    np.testing.assert_array_equal(second[[1, 3]], [3, 4])
