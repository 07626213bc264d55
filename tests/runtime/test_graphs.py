"""What is captured into a graph, and what the graph keeps: with a made-up CuPy."""

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from llm_numba.runtime import arrays, capture, empty


class Stream:
    """A stream that notes what is done to it."""

    current = None

    def __init__(self, non_blocking=False):
        assert non_blocking  # the default stream cannot be captured
        self.log = []

    def __enter__(self):
        self.outer, Stream.current = Stream.current, self
        return self

    def __exit__(self, *error):
        Stream.current = self.outer

    def begin_capture(self):
        self.log.append("begin")

    def end_capture(self):
        self.log.append("end")
        return SimpleNamespace(launch=lambda stream: self.log.append(("launch", stream)))


@pytest.fixture(autouse=True)
def _cupy(monkeypatch):
    device = contextlib.nullcontext()
    cupy = SimpleNamespace(
        cuda=SimpleNamespace(Stream=Stream, get_current_stream=lambda: "the current one"),
        ndarray=np.ndarray,
        empty=lambda shape, dtype: SimpleNamespace(shape=shape, device=device),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(arrays, "kind_of", lambda value: "cuda")


LIKE = SimpleNamespace(device=contextlib.nullcontext())


def test_work_is_queued_on_the_stream_that_captures():
    seen = []
    graph = capture(lambda: seen.append(Stream.current))
    (stream,) = seen
    assert stream.log == ["begin", "end"]
    graph.launch()
    graph.launch("mine")
    assert stream.log[2:] == [("launch", "the current one"), ("launch", "mine")]


def test_a_graph_keeps_what_its_work_allocated_and_nothing_else():
    before = empty(3, "float32", LIKE)
    made = []
    graph = capture(lambda: made.append(empty(4, "float32", LIKE)))
    after = empty(5, "float32", LIKE)
    assert graph._arrays == made
    assert before not in graph._arrays
    assert after not in graph._arrays


def test_a_capture_ends_when_its_work_fails():
    stream = []

    def fail():
        stream.append(Stream.current)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        capture(fail)
    assert stream[0].log == ["begin", "end"]
    assert arrays._kept.get() is None
