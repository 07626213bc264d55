"""Timing by events that a fake GPU passes, and the kernel that measures reading."""

import numpy as np
import pytest

from llm_numba.bench.gpu_timing import GPUTimer, Timing, read_launch
from llm_numba.runtime import launch_all, to_device, to_host


class FakeGPU:
    """A GPU whose work takes the time that it is told, queued by a host with a clock of its own."""

    def __init__(self, host_seconds=0.001):
        self.now = self.host = 0.0
        self.host_seconds = host_seconds
        self.log = []
        self.synchronised = 0

    def work(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds
            self.host += self.host_seconds

        return run

    def record(self):
        return self.now

    def seconds(self, begin, end):
        return end - begin

    def synchronize(self):
        self.synchronised += 1

    def timer(self, **options):
        return GPUTimer(events=self, clock=lambda: self.host, **options)


def test_each_run_is_between_two_events_of_its_own():
    gpu = FakeGPU()
    timing = gpu.timer(repeats=6, warmup=2).time([gpu.work("a", 0.01), gpu.work("b", 0.03)])
    assert timing.seconds == pytest.approx([0.03, 0.01] * 3)
    assert timing.warmup == 3
    assert timing.median == pytest.approx(0.02)


def test_inputs_take_turns_through_warm_up_and_runs():
    gpu = FakeGPU()
    gpu.timer(repeats=5, warmup=2).time([gpu.work(name, 0.001) for name in "abc"])
    assert "".join(gpu.log) == "abcabcab"


def test_the_gpu_is_busy_when_the_first_run_that_counts_is_queued():
    gpu = FakeGPU()
    timer = gpu.timer(repeats=5, warmup=2, ahead=2)
    timing = timer.time([gpu.work(name, 0.001) for name in "abc"])
    assert "".join(gpu.log) == "abcabcabca"
    assert timing.warmup == 5
    assert len(timing.seconds) == 5


def test_nothing_waits_between_runs():
    gpu = FakeGPU()
    gpu.timer(repeats=20).time([gpu.work("a", 0.001)])
    assert gpu.synchronised == 2  # to see how long one takes, and at the end


@pytest.mark.parametrize(("seconds", "repeats"), [(0.001, 30), (0.05, 10), (10.0, 5)])
def test_slow_work_is_repeated_less_often_but_five_times(seconds, repeats):
    gpu = FakeGPU()
    timing = gpu.timer(repeats=30, budget_seconds=0.5).time([gpu.work("a", seconds)])
    assert len(timing.seconds) == repeats


@pytest.mark.parametrize(("host", "bound"), [(0.001, False), (0.02, True)])
def test_a_host_that_is_slower_than_the_gpu_is_noticed(host, bound):
    gpu = FakeGPU(host_seconds=host)
    timing = gpu.timer(repeats=5).time([gpu.work("a", 0.01)])
    assert timing.host_seconds == pytest.approx(host)
    assert timing.host_bound is bound


def test_median_is_of_the_samples():
    assert Timing([3.0, 1.0, 2.0], 0.0, 0).median == 2.0


def captured(works):
    def replay():
        for work in works:
            work()

    return replay


def test_short_work_is_timed_as_a_graph_of_many():
    gpu = FakeGPU()
    works = [gpu.work(name, 20e-6) for name in "ab"]
    timing = gpu.timer(repeats=5, warmup=2).time(works, captured)
    # 400 us of it: 20 runs. Two to warm up, one to see how long it takes; one graph uncounted.
    assert timing.captured == 20
    assert timing.seconds == pytest.approx([20e-6] * 5)
    assert timing.warmup == 23
    assert "".join(gpu.log) == "aba" + "ab" * 10 * 6


def test_a_graph_has_every_input():
    gpu = FakeGPU()
    works = [gpu.work(name, 90e-6) for name in "abcdefghij"]
    assert gpu.timer(repeats=5).time(works, captured).captured == 10


def test_longer_work_is_timed_by_itself():
    gpu = FakeGPU(host_seconds=100e-6)
    timing = gpu.timer(repeats=5).time([gpu.work("a", 200e-6)], captured)
    assert timing.captured == 0
    assert len(gpu.log) == 3 + 1 + 5


def test_work_that_the_host_holds_up_is_captured():
    gpu = FakeGPU(host_seconds=240e-6)
    timing = gpu.timer(repeats=5).time([gpu.work("a", 250e-6)], captured)
    assert timing.captured == 2


def test_work_that_seemed_long_since_the_host_was_slow_is_captured():
    gpu = FakeGPU(host_seconds=0.0)
    kernel = gpu.work("a", 20e-6)
    launches = iter(range(10**6))

    def work():
        # The GPU waits for the host: long when it is looked at first, less long from then on.
        late = 400e-6 if next(launches) == 3 else 90e-6
        gpu.now += late
        gpu.host += late / 2 if late > 100e-6 else late
        kernel()

    def capture(works):
        return captured([kernel] * len(works))

    timing = gpu.timer(repeats=5).time([work], capture)
    assert timing.captured == 4
    assert timing.median == pytest.approx(20e-6)


def test_reading_alone_reads_each_number_once():
    threads = 512
    x = np.random.default_rng(0).normal(size=16 * threads * 3).astype(np.float32)
    sums = to_device(np.full(threads, np.nan, np.float32), "sim")
    launch_all([read_launch(to_device(x, "sim"), sums)])
    # Thread t reads packets t, t + 512, t + 1,024, ...; 48 numbers are added up in float32.
    expected = x.astype(np.float64).reshape(-1, threads, 4).sum(axis=(0, 2))
    np.testing.assert_allclose(to_host(sums), expected, rtol=0, atol=48 * 2.0**-24 * 16)
