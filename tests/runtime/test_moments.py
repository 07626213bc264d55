"""Moments: on the host at once, on a GPU when it comes to them."""

import sys
import time
from types import SimpleNamespace

from llm_numba.runtime import moments
from llm_numba.runtime.moments import note_moment


def test_on_the_host_a_moment_is_now():
    before = time.monotonic()
    moment = note_moment("cpu")
    after = time.monotonic()
    assert before <= moment() == moment() <= after


def test_on_a_gpu_it_is_when_the_stream_comes_there(monkeypatch):
    waited = []

    class Event:
        """The stream comes to event number n after 10 n ms."""

        def __init__(self):
            self.milliseconds = None

        def record(self):
            self.milliseconds = 10.0 * len(waited)

        def synchronize(self):
            waited.append(self)

    cuda = SimpleNamespace(
        Event=Event, get_elapsed_time=lambda one, other: other.milliseconds - one.milliseconds
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    moments._both_clocks.cache_clear()
    before = time.monotonic()
    first = note_moment("cuda")  # both clocks are read, and so one event is waited for
    after = time.monotonic()
    assert len(waited) == 1
    assert before + 0.01 <= first() <= after + 0.01
    second = note_moment("cuda")
    assert abs(second() - first() - 0.01) < 1e-9
    moments._both_clocks.cache_clear()
