"""Statistics of measurements, on samples whose percentiles are known."""

import pytest

from llm_numba.bench.timing import Statistic, repeat, summarize, wall_time


def test_percentiles_are_linearly_interpolated():
    found = summarize(list(range(11)), "s", warmup=3)
    assert found == Statistic("s", median=5.0, p10=1.0, p90=9.0, n=11, warmup=3)


def test_order_of_samples_does_not_matter():
    assert summarize([3, 1, 2], "s") == summarize([1, 2, 3], "s")


def test_one_sample_has_no_spread():
    found = summarize([4.5], "ms")
    assert (found.median, found.p10, found.p90, found.n) == (4.5, 4.5, 4.5, 1)


def test_one_outlier_does_not_move_the_median():
    assert summarize([1.0] * 9 + [1000.0], "s").median == 1.0


def test_no_sample_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        summarize([], "s")


def test_warm_up_runs_are_made_and_not_counted():
    calls = []

    def measure():
        calls.append(len(calls))
        return float(calls[-1])

    found = repeat(measure, repeats=3, warmup=2)
    assert calls == [0, 1, 2, 3, 4]
    assert (found.median, found.n, found.warmup) == (3.0, 3, 2)


def test_wall_time_reads_the_clock_around_the_work():
    log = []
    ticks = iter([10.0, 12.5])

    def clock():
        log.append("clock")
        return next(ticks)

    assert wall_time(lambda: log.append("work"), clock)() == 2.5
    assert log == ["clock", "work", "clock"]


def test_statistic_as_json():
    assert summarize([2.0], "x").to_json() == {
        "unit": "x", "median": 2.0, "p10": 2.0, "p90": 2.0, "n": 1, "warmup": 0
    }  # fmt: skip
