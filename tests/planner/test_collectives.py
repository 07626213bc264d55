"""Messages: formulas by hand, and a measured table in their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_numba.errors import LLMNumbaError
from llm_numba.planner import Link
from llm_numba.planner.collectives import (
    Exchange,
    LinkTable,
    all_reduce,
    one_shot_all_reduce,
    ring_all_gather,
    ring_all_reduce,
    send,
)

LINK = Link("made up", 100e9, 1e-6, "nobody")
BYTES = st.integers(0, 2**32)
RANKS = st.integers(1, 64)


def test_the_formulas_by_hand():
    # 4 ranks, 400 MB: a quarter takes 1 ms; around once is 3 steps, twice 6.
    assert ring_all_gather(400e6, 4, LINK) == pytest.approx(3 * (1e-3 + 1e-6))
    assert ring_all_reduce(400e6, 4, LINK) == pytest.approx(6 * (1e-3 + 1e-6))
    assert one_shot_all_reduce(400e6, 4, LINK) == pytest.approx(12e-3 + 1e-6)
    assert send(400e6, LINK) == pytest.approx(4e-3 + 1e-6)


def test_short_messages_go_in_one_shot_and_long_ones_around_the_ring():
    assert all_reduce(4096, 8, LINK) == one_shot_all_reduce(4096, 8, LINK)
    assert all_reduce(64e6, 8, LINK) == ring_all_reduce(64e6, 8, LINK)


@given(BYTES)
def test_one_rank_has_nobody_to_talk_to(num_bytes):
    exchange = Exchange(1, LINK)
    assert exchange.all_reduce(num_bytes) == exchange.all_gather(num_bytes) == 0
    assert all_reduce(num_bytes, 1, LINK) == 0


@given(BYTES, RANKS, st.floats(1e9, 1e12), st.floats(1.0, 100.0))
def test_more_bandwidth_is_never_slower(num_bytes, ranks, bandwidth, factor):
    slow = Link("slow", bandwidth, 1e-6, "")
    fast = Link("fast", factor * bandwidth, 1e-6, "")
    for each in (ring_all_reduce, one_shot_all_reduce, all_reduce, ring_all_gather):
        assert each(num_bytes, ranks, fast) <= each(num_bytes, ranks, slow)


@given(BYTES, BYTES, RANKS)
def test_more_bytes_are_never_faster(one, other, ranks):
    few, many = sorted((one, other))
    assert all_reduce(few, ranks, LINK) <= all_reduce(many, ranks, LINK)


def record(*points):
    return {
        "results": [
            {
                "shape": {"operation": operation, "ranks": ranks, "bytes": num_bytes},
                "unit": unit,
                "median": median,
            }
            for operation, ranks, num_bytes, median, unit in points
        ]
    }


MEASURED = record(
    ("all_reduce", 2, 1000, 5.0, "µs"),
    ("all_reduce", 2, 1000, 4.0, "µs"),  # another path, the fastest
    ("all_reduce", 2, 1000, 7.0, "µs"),
    ("all_reduce", 2, 1000, 1.0, "GB/s"),  # the same as a rate
    ("all_reduce", 2, 3000, 8.0, "µs"),
    ("send", 2, 1000, 1.0, "µs"),
)


@pytest.mark.parametrize(
    ("num_bytes", "microseconds"), [(10, 4.0), (1000, 4.0), (2000, 6.0), (3000, 8.0), (6000, 16.0)]
)
def test_a_measured_link_takes_the_place_of_the_formula(num_bytes, microseconds):
    table = LinkTable.from_record(MEASURED, "comm_x.json")
    found = Exchange(2, LINK, table).all_reduce(num_bytes)
    assert found == pytest.approx(1e-6 * microseconds)


def test_where_so_many_ranks_were_not_measured_the_formula_stays():
    table = LinkTable.from_record(MEASURED, "comm_x.json")
    assert Exchange(4, LINK, table).all_reduce(1000) == all_reduce(1000, 4, LINK)
    assert Exchange(2, LINK, table).all_gather(1000) == ring_all_gather(1000, 2, LINK)


def test_a_record_without_exchanges_is_refused():
    with pytest.raises(LLMNumbaError, match="no times of exchanges"):
        LinkTable.from_record({"results": [{"shape": {"batch": 1}}, {}]}, "engine_x.json")
