"""Which banks and sectors a request touches, by hand and against the simulator's own counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_numba.microscope.requests import (
    bank_words,
    touched_sectors,
    worst_request,
)
from llm_numba.simulator import LineReport, Report, Request
from llm_numba.simulator import costs as rules

LANES = range(32)


def shared(addresses, size=4):
    return Request("shared", "load", tuple(addresses), size, 0)


def global_(addresses, size=4, cost=0):
    return Request("global", "load", tuple(addresses), size, cost)


# -- Banks --------------------------------------------------------------------------------------


def test_neighbours_have_a_bank_each():
    np.testing.assert_array_equal(bank_words(shared(4 * lane for lane in LANES)), np.eye(32))


def test_a_column_of_32_words_is_one_bank_32_times():
    met = bank_words(shared(128 * lane for lane in LANES))
    assert (met[:, 0] == 32).all()
    assert not met[:, 1:].any()


def test_a_stride_of_two_words_meets_half_the_banks_twice():
    met = bank_words(shared(8 * lane for lane in LANES))
    assert (met[:, 0::2].sum(axis=0) == 4).all()  # two lanes, each meets two words
    assert met.max() == 2
    assert not met[:, 1::2].any()


def test_one_word_for_all_is_a_broadcast():
    met = bank_words(shared([40] * 32))
    assert (met[:, 10] == 1).all()
    assert met.sum() == 32


def test_halves_of_one_word_are_no_conflict():
    met = bank_words(shared((2 * lane for lane in LANES), size=2))
    assert met.max() == 1
    assert (met.sum(axis=0) == [2] * 16 + [0] * 16).all()


@pytest.mark.parametrize(("size", "together"), [(1, 32), (4, 32), (8, 16), (16, 8)])
def test_wide_accesses_go_by_parts_of_the_warp(size, together):
    request = shared((size * lane for lane in LANES), size)
    groups = rules.lane_groups(np.array(request.addresses), size)
    assert [len(group) for group in groups] == [together] * (32 // together)
    met = bank_words(request)
    assert met.max() == 1  # parts that are served one after the other do not conflict
    assert (np.count_nonzero(met, axis=1) == max(size // 4, 1)).all()


def test_lanes_that_take_no_part_touch_nothing():
    met = bank_words(shared([None] * 31 + [128]))
    assert np.argwhere(met).tolist() == [[31, 0]]


sizes = st.sampled_from([1, 2, 4, 8, 16])
lanes = st.lists(st.none() | st.integers(0, 300), min_size=32, max_size=32)


@given(sizes, lanes)
def test_the_worst_bank_is_the_one_that_the_simulator_counts(size, places):
    request = shared([None if each is None else each * size for each in places], size)
    addresses = np.array([[-1 if each is None else each for each in request.addresses]])
    _, ways, _ = rules.wavefronts(addresses, size)
    assert bank_words(request).max() == ways[0]


# -- Sectors ------------------------------------------------------------------------------------


def test_neighbours_share_full_sectors():
    moved = touched_sectors(global_(4 * lane for lane in LANES))
    assert [(each.lanes[0], each.lanes[-1], each.used) for each in moved] == [
        (0, 7, 32), (8, 15, 32), (16, 23, 32), (24, 31, 32),
    ]  # fmt: skip


def test_a_column_takes_a_sector_for_each_number():
    moved = touched_sectors(global_(256 * lane for lane in LANES))
    assert [each.lanes for each in moved] == [(lane,) for lane in LANES]
    assert {each.used for each in moved} == {4}


def test_bytes_that_several_lanes_want_are_used_once():
    (only,) = touched_sectors(global_([36] * 30 + [None, 40]))
    assert only.lanes == (*range(30), 31)
    assert only.used == 8


def test_sectors_come_by_address():
    moved = touched_sectors(global_([64, 0] + [None] * 30))
    assert [each.lanes for each in moved] == [(1,), (0,)]


@given(sizes, lanes)
def test_there_are_as_many_sectors_as_the_simulator_counts(size, places):
    request = global_([None if each is None else each * size for each in places], size)
    addresses = np.array([[-1 if each is None else each for each in request.addresses]])
    moved = touched_sectors(request)
    assert len(moved) == rules.sectors(addresses)[0]
    assert sum(each.used for each in moved) == rules.count_distinct(addresses)[0] * size


# -- The worst ----------------------------------------------------------------------------------


def report(*lines):
    return Report("kernel", (1, 1, 1), (32, 1, 1), list(lines))


def test_what_wastes_most_is_worse_than_what_costs_most():
    wide = global_((16 * lane for lane in LANES), 16, cost=16)  # ideally 16
    apart = global_((256 * lane for lane in range(8)), cost=8)  # ideally 1
    apart = Request("global", "load", apart.addresses + (None,) * 24, 4, 8)
    lines = [LineReport("f", 1, worst_global=wide), LineReport("f", 2, worst_global=apart)]
    worst = worst_request([report(*lines)], "global")
    assert (worst.line.line, worst.ideal, worst.wasted) == (2, 1, 7)


def test_of_requests_without_waste_the_costliest_and_then_the_last_is_shown():
    narrow = global_((4 * lane for lane in LANES), cost=4)
    wide = global_((16 * lane for lane in LANES), 16, cost=16)
    lines = [LineReport("f", n, worst_global=r) for n, r in enumerate([narrow, wide, wide, narrow])]
    assert worst_request([report(*lines)], "global").line.line == 2


def test_no_request_is_the_worst_of_none():
    assert worst_request([report(LineReport("f", 1))], "shared") is None
    assert worst_request([], "global") is None
