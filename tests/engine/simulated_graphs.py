"""Graphs where there is no GPU: launches in the simulator that are noted, and run in replays.

A capture notes launches, and what is copied between arrays of the simulated device. It does none of
it: who looks at a result meanwhile finds nothing there. And who speaks to other ranks fails.
"""

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from llm_numba.engine import building
from llm_numba.parallel.threads import ThreadCommunicator
from llm_numba.runtime import Arena, intercept, kind_of, launch_all
from llm_numba.runtime.arrays import SimulatedArray

# A thread is a rank, and has a stream of its own.
_here = threading.local()


class _Stream:
    def __init__(self, non_blocking: bool) -> None:
        self._noting = ExitStack()

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def begin_capture(self) -> None:
        _here.work = work = []
        self._noting.enter_context(
            intercept(lambda launch: work.append(lambda: launch_all([launch])))
        )

    def end_capture(self) -> "_Graph":
        self._noting.close()
        work, _here.work = _here.work, None
        return _Graph(work)


class _Graph:
    def __init__(self, work: list[Callable[[], None]]) -> None:
        self.work = work

    def launch(self, stream: _Stream) -> None:
        for each in self.work:
            each()


def _captured() -> list[Callable[[], None]] | None:
    return getattr(_here, "work", None)


def _copying(array: SimulatedArray, index: object, value: object) -> None:
    def copy() -> None:
        super(SimulatedArray, array).__setitem__(index, value)

    work = _captured()
    copy() if work is None else work.append(copy)


def _outside(method: Callable) -> Callable:
    def speak(*args, **kwargs):
        assert _captured() is None, "a rank speaks to others during a capture"
        return method(*args, **kwargs)

    return speak


def take_for_gpus(patch: pytest.MonkeyPatch) -> None:
    """Let engines take what is simulated for a GPU: queues, batches filled to buckets, graphs."""
    kinds = {"sim": "cuda", "host": "host"}
    patch.setattr(building, "_queues", lambda device: device == "sim")
    for name in ("runner", "stage"):
        patch.setattr(f"llm_numba.engine.{name}.kind_of", lambda array: kinds[kind_of(array)])
    _simulate_graphs(patch)


def _simulate_graphs(patch: pytest.MonkeyPatch) -> None:
    """Let captures note what the simulator is to do."""
    cuda = SimpleNamespace(Stream=_Stream, get_current_stream=lambda: _Stream(True))
    patch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda, ndarray=_Graph))
    patch.setattr(SimulatedArray, "__setitem__", _copying, raising=False)
    # Arrays of the simulator are none of an arena's.
    patch.setattr(Arena, "view", lambda self, array: array)
    for name in ("_meet", "start_send", "start_receive"):
        patch.setattr(ThreadCommunicator, name, _outside(getattr(ThreadCommunicator, name)))
