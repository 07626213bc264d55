"""What is captured into a graph, in how many pieces, and where it allocates: a made-up CuPy."""

import contextlib
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from llm_numba.runtime import Arena, arrays, by_host, capture, empty, graphs


class Stream:
    """A stream that notes what is done to it; each capture gives a graph of the next number."""

    current = None

    def __init__(self, non_blocking=True):
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
        number = self.log.count("end") - 1
        return SimpleNamespace(launch=lambda stream: stream.log.append(f"piece {number}"))


@pytest.fixture(autouse=True)
def _cupy(monkeypatch):
    monkeypatch.setattr(Stream, "current", Stream())
    cupy = SimpleNamespace(
        cuda=SimpleNamespace(Stream=Stream, get_current_stream=lambda: Stream.current),
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
    assert graph.num_pieces == 1
    mine = Stream()
    graph.launch()
    graph.launch(mine)
    assert Stream.current.log == mine.log == ["piece 0"]


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


@by_host
def meet(what):
    Stream.current.log.append(what)


def test_what_the_host_does_stands_between_two_pieces_and_is_done_in_each_replay():
    seen = []

    def work():
        seen.append(Stream.current)
        meet("first")
        seen.append(Stream.current)
        meet("second")

    graph = capture(work)
    assert seen[0] is seen[1]
    assert seen[0].log == ["begin", "end"] * 3
    assert graph.num_pieces == 3
    mine = Stream()
    graph.launch()
    graph.launch(mine)
    graph.launch(mine)
    once = ["piece 0", "first", "piece 1", "second", "piece 2"]
    assert Stream.current.log == once
    assert mine.log == 2 * once


def test_what_the_host_does_is_done_at_once_where_nothing_is_captured():
    """Also on another thread, while one captures."""
    meet("alone")

    def work():
        thread = threading.Thread(target=meet, args=["beside"])
        thread.start()
        thread.join()

    outer = Stream.current
    assert capture(work).num_pieces == 1
    assert outer.log == ["alone"]


def test_arrays_that_the_host_reads_between_pieces_are_lent_to_it(monkeypatch):
    """Else each cut of each graph would keep its memory from all later launches."""
    monkeypatch.setattr(graphs, "kind_of", lambda value: "cuda" if value == "array" else None)
    monkeypatch.setattr(Arena, "view", lambda self, array: (self, array))
    seen, arena = [], Arena()
    note = by_host(lambda *args: seen.append(args))
    capture(lambda: note("array", [("array", 1)], None), arena).launch()
    assert seen == [((arena, "array"), [((arena, "array"), 1)], None)]


@pytest.mark.parametrize("call", ["begin_capture", "end_capture"])
def test_a_capture_that_cannot_be_cut_ends_with_the_error_of_that(monkeypatch, call):
    """And what the host does next is done at once."""
    streams = []

    def work():
        streams.append(Stream.current)
        with monkeypatch.context() as patch:
            patch.setattr(Stream, call, lambda self: 1 // 0)
            meet("never")

    with pytest.raises(ZeroDivisionError):
        capture(work)
    assert streams[0].log[-1] == "end"
    meet("at once")
    assert Stream.current.log == ["at once"]


def test_a_failure_behind_a_cut_ends_the_capture():
    streams = []

    def work():
        meet("never")
        streams.append(Stream.current)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        capture(work)
    assert streams[0].log == ["begin", "end"] * 2
    meet("at once")
    assert Stream.current.log == ["at once"]
