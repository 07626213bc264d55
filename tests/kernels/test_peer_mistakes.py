"""Mistakes planted into the protocol of the teams, each of which the simulator finds.

On two GPUs most of them would give the right sum nearly every time.
"""

import functools

import numpy as np
import pytest
from numba import cuda, int32, uint32, uint64

from llm_numba.kernels import peer, peer_lines, peer_push, peer_steps, ptx
from llm_numba.kernels.peer_team import FLAGS
from llm_numba.parallel.peer import simulated_links
from llm_numba.reference.rank_sums import combine_parts
from llm_numba.runtime import to_device, to_host
from llm_numba.runtime.devices import simulate_ranks
from llm_numba.simulator.errors import DeadlockError, RaceError, SimulationError

CALLS, SIZE = 4, 150
ORDERS = [("ordered", 0), ("random", 0)]
each_order = pytest.mark.parametrize(("schedule", "seed"), ORDERS)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(peer, "THREADS", 40)


@cuda.jit(device=True)
def store_plainly(flags, index, value):
    flags[index // flags.shape[1], index % flags.shape[1]] = value


@cuda.jit(device=True)
def sync():
    cuda.syncthreads()


@cuda.jit(device=True)
def go_on():
    pass


@cuda.jit(device=True)
def at_least(found, number):
    return int32(found - number) >= 0


@cuda.jit(device=True)
def exactly(found, number):
    return found == int32(number)


@cuda.jit(device=True)
def as_plain_numbers(found, number):
    return found >= int32(number)


@cuda.jit(device=True)
def itself(number):
    return number


@cuda.jit(device=True)
def always_one(number):
    return 1


def meetings(
    store=ptx.store_release_system,
    load=ptx.load_acquire_system,
    before=sync,
    behind=sync,
    has_come=at_least,
    named=itself,
):
    """The factory of meetings, with some parts replaced."""

    def meeting(ranks):
        @cuda.jit(device=True)
        def meet(flags, addresses, rank, number):
            before()
            other, team = cuda.threadIdx.x, cuda.blockIdx.x * ranks
            if other < ranks:
                theirs = ptx.at_address(flags, addresses[FLAGS, other])
                store(theirs, team + rank, int32(named(number)))
                while not has_come(load(flags, team + other), named(number)):
                    pass
            behind()

        return meet

    return meeting


@cuda.jit(device=True)
def one_slot(call, team, counters, room):
    """The slot of a call, as if there were one only: nothing protects what is shown from reuse."""
    return team * room


def call_several_times(step, *, calls, size, set_up, schedule, seed):
    """Add up on one link a rank, several times, and check every sum."""
    links = simulated_links(2, teams=1, room_bytes=1024)
    for link in links:
        set_up(link)
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(calls, 2, size)).astype(np.float32)
    xs = [[to_device(part[rank], "sim") for part in parts] for rank in range(2)]
    programs = [
        lambda x=x, link=link: [peer.all_reduce(each, link, step=step) for each in x]
        for x, link in zip(xs, links, strict=True)
    ]
    simulate_ranks(programs, schedule=schedule, seed=seed)
    for call, given in enumerate(parts):
        for rank in range(2):
            np.testing.assert_array_equal(to_host(xs[rank][call]), combine_parts(np.stack(given)))


def run(
    monkeypatch, step, *, calls=CALLS, size=SIZE, before=0, schedule="ordered", seed=0, **planted
):
    """Call an all-reduce several times, by kernels into which something is planted."""
    for name, part in planted.items():
        monkeypatch.setattr(peer_steps, name, part)
    kernel = functools.cache(getattr(peer_steps, step).__wrapped__)
    monkeypatch.setattr(peer, step, kernel)

    def set_up(link):
        link.counters[...], link.flags[...] = before, 2 * before

    options = {"calls": calls, "size": size, "schedule": schedule, "seed": seed}
    call_several_times(step, set_up=set_up, **options)


@each_order
@pytest.mark.parametrize("step", ["one_shot", "two_shot"])
def test_the_parts_as_they_are_make_no_mistake(monkeypatch, step, schedule, seed):
    run(monkeypatch, step, meeting=meetings(), schedule=schedule, seed=seed)


RACES = {
    "the flag is stored plainly": {"store": store_plainly},
    "the flag is released for one GPU": {"store": ptx.store_release},
    "the flag is acquired for one GPU": {"load": ptx.load_acquire},
    "no barrier before the release": {"before": go_on},
    "no barrier behind the acquire": {"behind": go_on},
    "a flag without a number": {"named": always_one},
}


@each_order
@pytest.mark.parametrize("mistake", RACES)
def test_a_mistake_in_the_meeting_is_a_race(monkeypatch, mistake, schedule, seed):
    meeting = meetings(**RACES[mistake])
    with pytest.raises(RaceError):
        run(monkeypatch, "one_shot", meeting=meeting, schedule=schedule, seed=seed)


@each_order
@pytest.mark.parametrize("step", ["one_shot", "two_shot"])
def test_one_slot_for_all_calls_is_a_race(monkeypatch, step, schedule, seed):
    with pytest.raises(RaceError, match="`slots`"):
        run(monkeypatch, step, slot_of=one_slot, schedule=schedule, seed=seed)


def test_one_slot_is_enough_for_a_single_call(monkeypatch):
    run(monkeypatch, "one_shot", slot_of=one_slot, calls=1)


def test_to_wait_for_a_number_and_no_later_one_may_be_to_wait_for_ever(monkeypatch):
    planted = {"meeting": meetings(has_come=exactly), "size": 1, "calls": 12}

    def hangs(seed):
        try:
            run(monkeypatch, "one_shot", schedule="random", seed=seed, **planted)
        except DeadlockError:
            return True
        return False

    assert any(map(hangs, range(20)))


def test_numbers_compared_without_regard_to_their_wrapping_around_are_found(monkeypatch):
    run(monkeypatch, "one_shot", meeting=meetings(), before=2**30 - 2)
    with pytest.raises(SimulationError):
        run(
            monkeypatch,
            "one_shot",
            meeting=meetings(has_come=as_plain_numbers),
            before=2**30 - 2,
        )


# -- What is pushed -----------------------------------------------------------------------------


@cuda.jit(device=True)
def one_inbox(number, teams, ranks, sender, room):
    """The place of all calls, as if there were one slot only."""
    return (cuda.blockIdx.x * ranks + sender) * (peer_lines.WORDS * room)


@cuda.jit(device=True)
def same_number(calls):
    """The number of the first call, in every call."""
    cuda.syncthreads()
    return uint32(1)


@cuda.jit(device=True)
def counted_by_each_thread(calls):
    """Nobody waits until all threads have read the number."""
    number = uint32(calls[cuda.blockIdx.x] + 1)
    if cuda.threadIdx.x == 0:
        calls[cuda.blockIdx.x] = number
    return number


# The instructions as they are, also where something else stands for them.
store_line = ptx.store_line


@cuda.jit(device=True)
def store_plain_line(lines, index, low, high, number):
    lines[index] = uint64(low) | uint64(number) << uint64(32)
    lines[index + 1] = uint64(high) | uint64(number) << uint64(32)


@cuda.jit(device=True)
def store_number_first(lines, index, low, high, number):
    """The words with their numbers, and then with their data."""
    store_line(lines, index, uint32(0), uint32(0), number)
    store_line(lines, index, low, high, number)


def push(monkeypatch, *, schedule="ordered", seed=0, before=0, calls=5, size=148, **planted):
    """Call the pushed all-reduce several times, by kernels into which something is planted."""
    for name, part in planted.items():
        for module in (peer_lines, peer_push, ptx):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, part)
    # Made anew: what was made before has its parts within.
    factories = (
        ("asker", peer_lines),
        ("pusher", peer_push),
        ("taker", peer_push),
        ("pushed", peer),
    )
    for name, module in factories:
        factory = functools.cache(getattr(module, name).__wrapped__)
        monkeypatch.setattr(module, name, factory)

    def set_up(link):
        link.calls[...], link.lines[...] = before, np.uint64(before // 2) << np.uint64(32)

    options = {"calls": calls, "size": size, "schedule": schedule, "seed": seed}
    call_several_times("push", set_up=set_up, **options)


@each_order
@pytest.mark.parametrize("before", [0, 2**31 - 2, 2**32 - 3])
def test_what_pushes_as_it_is_makes_no_mistake(monkeypatch, schedule, seed, before):
    push(monkeypatch, schedule=schedule, seed=seed, before=before)


def test_one_slot_for_all_that_is_pushed_loses_words(monkeypatch):
    """What a fast rank sends next comes over words that the slow one still waits for."""

    def hangs(seed):
        try:
            push(monkeypatch, schedule="random", seed=seed, inbox=one_inbox)
        except DeadlockError:
            return True
        return False

    assert any(map(hangs, range(10)))


def test_one_slot_is_enough_for_a_single_push(monkeypatch):
    push(monkeypatch, inbox=one_inbox, calls=1)


@each_order
def test_one_number_for_all_calls_takes_old_words_for_new(monkeypatch, schedule, seed):
    with pytest.raises((AssertionError, SimulationError)):
        push(monkeypatch, schedule=schedule, seed=seed, next_call=same_number)


@each_order
def test_a_call_that_is_counted_before_all_have_read_its_number_is_a_race(
    monkeypatch, schedule, seed
):
    with pytest.raises(RaceError, match="`calls`"):
        push(monkeypatch, schedule=schedule, seed=seed, next_call=counted_by_each_thread)


@each_order
def test_words_that_are_stored_plainly_are_a_race(monkeypatch, schedule, seed):
    with pytest.raises(RaceError, match="`lines`"):
        push(monkeypatch, schedule=schedule, seed=seed, store_line=store_plain_line)


def test_a_number_that_comes_before_its_data_is_found(monkeypatch):
    def fails(seed):
        try:
            push(monkeypatch, schedule="random", seed=seed, store_line=store_number_first)
        except AssertionError:
            return True
        return False

    assert any(map(fails, range(10)))
