"""Atomic updates: of every type, in every order, with Numba's own answers to NaN."""

import numpy as np
import pytest
from numba import cuda

from llm_numba.simulator import simulate


@cuda.jit
def histogram(counts, found, x):
    i = cuda.grid(1)
    if i < x.size:
        found[i] = cuda.atomic.add(counts, x[i], 1)


@pytest.mark.parametrize("bins", [1, 3, 40, 500])
@pytest.mark.parametrize("schedule", ["ordered", "random"])
def test_each_thread_finds_what_the_one_before_it_left(bins, schedule):
    x = np.random.default_rng(bins).integers(0, bins, 300)
    counts, found = np.zeros(bins, np.uint32), np.zeros(300, np.int64)
    simulate(histogram, 2, 160, (counts, found, x), schedule=schedule)
    np.testing.assert_array_equal(counts, np.bincount(x, minlength=bins))
    for each in range(bins):
        assert sorted(found[x == each]) == list(range(counts[each]))


def test_floats_add_up_in_the_order_of_threads():
    @cuda.jit
    def total(out, x):
        cuda.atomic.add(out, 0, x[cuda.grid(1)])

    x = np.random.default_rng(0).normal(size=256).astype(np.float32)
    out = np.zeros(1, np.float32)
    simulate(total, 1, 256, (out, x))
    want = np.float32(0)
    for each in x:
        want = np.float32(want + each)
    assert out[0] == want


def test_nan_moves_neither_max_nor_min_but_gives_way_to_nanmax():
    @cuda.jit
    def extremes(out, x):
        i = cuda.grid(1)
        cuda.atomic.max(out, 0, x[i])
        cuda.atomic.min(out, 1, x[i])
        cuda.atomic.max(out, 2, x[i])
        cuda.atomic.nanmax(out, 3, x[i])
        cuda.atomic.nanmin(out, -1, x[i])

    x = np.array([1, np.nan, 5, -3], np.float64)
    out = np.array([0, 0, np.nan, np.nan, np.nan])
    simulate(extremes, 1, 4, (out, x))
    np.testing.assert_array_equal(out, [5, -3, np.nan, 5, -3])


def test_counters_wrap_at_their_limit_and_swaps_compare():
    @cuda.jit
    def counters(up, down, lock, found):
        i = cuda.grid(1)
        cuda.atomic.inc(up, 0, 4)
        cuda.atomic.dec(down, 0, 4)
        found[i] = cuda.atomic.cas(lock, 0, 0, i + 1)

    up, down = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    lock, found = np.zeros(1, np.int32), np.full(7, -1)
    simulate(counters, 1, 7, (up, down, lock, found))
    assert (up[0], down[0], lock[0]) == (2, 3, 1)
    assert found.tolist() == [0, 1, 1, 1, 1, 1, 1]
