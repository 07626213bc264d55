"""Mistakes planted into the protocol of the teams, each of which the simulator finds.

On two GPUs most of them would give the right sum nearly every time.
"""

import functools

import numpy as np
import pytest
from numba import cuda, int32

from llm_numba.kernels import peer, peer_steps, ptx
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


def run(
    monkeypatch, step, *, calls=CALLS, size=SIZE, before=0, schedule="ordered", seed=0, **planted
):
    """Call an all-reduce several times, by kernels into which something is planted."""
    for name, part in planted.items():
        monkeypatch.setattr(peer_steps, name, part)
    kernel = functools.cache(getattr(peer_steps, step).__wrapped__)
    monkeypatch.setattr(peer, step, kernel)
    links = simulated_links(2, teams=1, room_bytes=1024)
    for link in links:
        link.counters[...], link.flags[...] = before, 2 * before
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
