"""What orders accesses of different threads, and what does not."""

import numpy as np

from llm_numba.simulator.order import Knowledge


def one(value):
    return np.array([value])


def knows(knowledge, thread, other, tick):
    return bool(knowledge.knows(one(thread), one(other), one(tick))[0])


def test_a_thread_knows_itself_and_nobody_else():
    knowledge = Knowledge(4, 0)
    assert knows(knowledge, 2, 2, 1)
    assert not knows(knowledge, 2, 1, 1)


def test_a_barrier_tells_what_was_done_before_it_and_nothing_later():
    knowledge = Knowledge(4, 0)
    before = knowledge.clock.copy()
    knowledge.meet(np.array([0, 1]))
    assert knows(knowledge, 0, 1, before[1])
    assert knows(knowledge, 1, 0, before[0])
    assert not knows(knowledge, 0, 1, knowledge.clock[1])
    assert not knows(knowledge, 0, 2, before[2])
    assert not knows(knowledge, 2, 0, before[0])


def test_what_one_heard_at_one_barrier_it_passes_on_at_the_next():
    knowledge = Knowledge(3, 0)
    tick = knowledge.clock[0]
    knowledge.meet(np.array([0, 1]))
    knowledge.meet(np.array([1, 2]))
    assert knows(knowledge, 2, 0, tick)


def send(knowledge, sender, receiver, *, fence_before, fence_after):
    if fence_before:
        knowledge.fence(one(sender))
    knowledge.touch_flag(one(sender), 7, one(0))
    knowledge.touch_flag(one(receiver), 7, one(0))
    if fence_after:
        knowledge.fence(one(receiver))


def test_a_flag_orders_only_between_two_fences():
    for fence_before in (False, True):
        for fence_after in (False, True):
            knowledge = Knowledge(2, 0)
            tick = knowledge.clock[0]
            send(knowledge, 0, 1, fence_before=fence_before, fence_after=fence_after)
            assert knows(knowledge, 1, 0, tick) == (fence_before and fence_after)


def test_what_is_done_behind_the_fence_is_not_in_the_message():
    knowledge = Knowledge(2, 0)
    knowledge.fence(one(0))
    late = knowledge.clock[0]
    send(knowledge, 0, 1, fence_before=False, fence_after=True)
    assert not knows(knowledge, 1, 0, late)


def test_a_message_reaches_the_others_through_a_barrier():
    knowledge = Knowledge(3, 0)
    tick = knowledge.clock[0]
    knowledge.fence(one(0))
    knowledge.touch_flag(one(0), 7, one(0))
    knowledge.touch_flag(one(1), 7, one(0))
    knowledge.meet(np.array([1, 2]))
    assert knows(knowledge, 2, 0, tick)


def test_a_counter_gathers_the_messages_of_all_who_count():
    knowledge = Knowledge(4, 0)
    ticks = knowledge.clock.copy()
    for thread in range(4):
        knowledge.fence(one(thread))
        knowledge.touch_flag(one(thread), 7, one(0))
    knowledge.fence(one(3))
    assert all(knows(knowledge, 3, other, ticks[other]) for other in range(3))
    assert not knows(knowledge, 0, 3, ticks[3])


def test_flags_of_other_places_say_nothing():
    knowledge = Knowledge(2, 0)
    tick = knowledge.clock[0]
    knowledge.fence(one(0))
    knowledge.touch_flag(one(0), 7, one(0))
    knowledge.touch_flag(one(1), 7, one(1))
    knowledge.touch_flag(one(1), 8, one(0))
    knowledge.fence(one(1))
    assert not knows(knowledge, 1, 0, tick)


def test_threads_of_blocks_that_ran_before_are_ordered_with_nobody():
    knowledge = Knowledge(4, 100)
    knowledge.meet(np.arange(4))
    assert knows(knowledge, 101, 103, 1)
    assert not knows(knowledge, 101, 3, 1)


def test_many_barriers_do_not_pile_up_memory():
    knowledge = Knowledge(8, 0)
    for _ in range(1000):
        knowledge.meet(np.arange(8))
        knowledge.fence(np.arange(8))
    assert len(knowledge._vectors) < 200
