"""What is captured into a graph, and where it allocates: with a made-up CuPy."""

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from llm_numba.runtime import Arena, arrays, capture, empty


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
    cupy = SimpleNamespace(
        cuda=SimpleNamespace(Stream=Stream, get_current_stream=lambda: "the current one"),
        ndarray=np.ndarray,
        empty=lambda shape, dtype: "of the pool",
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(arrays, "kind_of", lambda value: "cuda")
    monkeypatch.setattr(Arena, "empty", lambda self, shape, dtype: self)


LIKE = SimpleNamespace(device=contextlib.nullcontext())


def test_work_is_queued_on_the_stream_that_captures():
    seen = []
    graph = capture(lambda: seen.append(Stream.current))
    (stream,) = seen
    assert stream.log == ["begin", "end"]
    graph.launch()
    graph.launch("mine")
    assert stream.log[2:] == [("launch", "the current one"), ("launch", "mine")]


@pytest.mark.parametrize("arena", [None, Arena()], ids=["its own", "shared"])
def test_work_that_is_captured_allocates_in_an_arena_that_the_graph_keeps(arena):
    made = []
    graph = capture(lambda: made.append(empty(4, "float32", LIKE)), arena)
    assert made == [graph._arena]
    assert arena in (None, graph._arena)
    assert empty(5, "float32", LIKE) == "of the pool"


def test_a_capture_ends_when_its_work_fails():
    stream = []

    def fail():
        stream.append(Stream.current)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        capture(fail)
    assert stream[0].log == ["begin", "end"]
    assert empty(5, "float32", LIKE) == "of the pool"
