"""What a step consists of, and two clocks for it: CUPTI's on a GPU, the host's on a CPU."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from llm_numba import ops
from llm_numba.errors import DeviceError
from llm_numba.runtime import Graph, Launch, capture, intercept, launch_all, zeros

_LAUNCHES = 200  # in the graph that tells what a launch takes

Span = tuple[float, float]  # begin and end in seconds, from the begin of the step


@dataclass(frozen=True)
class Recorded:
    """An operation as it was called.

    Attributes
    ----------
    call : Call
    result : array or tuple of arrays
        What it returned.
    launches : tuple of Launch
        Those that were collected; none if they ran.
    span : (float, float)
        Begin and end on the host, in seconds from the begin of the step.
    """

    call: ops.Call
    result: Any
    launches: tuple[Launch, ...]
    span: Span


def record(step: Callable[[], object], *, launch: bool) -> list[Recorded]:
    """Learn which operations a step consists of.

    Parameters
    ----------
    step : callable
    launch : bool
        True: run them, and time each by the wall clock. False: keep launches from running, and
        collect them.

    Returns
    -------
    list of Recorded
        In order.
    """
    recorded: list[Recorded] = []
    start = time.perf_counter()

    def note(call: ops.Call) -> Any:
        launches: list[Launch] = []
        begin = time.perf_counter()
        if launch:
            result = call.run()
        else:
            with intercept(launches.append):
                result = call.run()
        span = (begin - start, time.perf_counter() - start)
        recorded.append(Recorded(call, result, tuple(launches), span))
        return result

    with ops.watch(note):
        step()
    return recorded


@cuda.jit
def do_nothing(x):
    """Start and end."""


class GPUClock:
    """Times a step's launches on a GPU, as one CUDA graph.

    Parameters
    ----------
    repeats : int
        Replays that nobody watches.
    watched : int
        Replays that CUPTI watches.

    Attributes
    ----------
    launch_seconds : float
        Of a kernel that does nothing, in a graph of such.
    """

    def __init__(self, repeats: int = 30, watched: int = 5) -> None:
        from llm_numba.bench.cupti import cupti

        self._repeats, self._watched = repeats, watched
        self._cupti = cupti()
        nothing = Launch(do_nothing, (1,), (32,), (zeros(1, np.float32, "cuda"),))
        launch_all([nothing])  # compiles
        self.launch_seconds = self._unwatched([nothing] * _LAUNCHES)[1] / _LAUNCHES

    def time(self, launches: Sequence[Launch]) -> tuple[float, list[Span]]:
        """Run launches, all of whose kernels are compiled.

        Parameters
        ----------
        launches : sequence of Launch

        Returns
        -------
        seconds : float
            Median of the graph's time when nobody watches.
        spans : list of (float, float)
            Of the launches, in order, from a replay of median length.
        """
        from llm_numba.bench.gpu_timing import CudaEvents

        graph, whole = self._unwatched(launches)

        def watched() -> None:
            for _ in range(self._watched):
                graph.launch()
            CudaEvents().synchronize()

        runs = self._cupti.watch(watched)
        count = len(launches)
        if len(runs) != count * self._watched:
            raise DeviceError(
                f"CUPTI saw {len(runs)} kernels in {self._watched} runs of {count}.",
                "End what else runs kernels in this process.",
            )
        replays = [runs[i : i + count] for i in range(0, count * self._watched, count)]
        replays.sort(key=lambda replay: replay[-1].end - replay[0].begin)
        typical = replays[len(replays) // 2]
        start = typical[0].begin
        return whole, [(1e-9 * (run.begin - start), 1e-9 * (run.end - start)) for run in typical]

    def _unwatched(self, launches: Sequence[Launch]) -> tuple[Graph, float]:
        from llm_numba.bench.gpu_timing import GPUTimer

        graph = capture(lambda: launch_all(launches))
        timer = GPUTimer(self._repeats, budget_seconds=2.0)
        return graph, timer.time([graph.launch]).median


class WallClock:
    """Times a step on a CPU, operation by operation.

    Parameters
    ----------
    repeats : int
        Runs, of which one of median length is shown.
    """

    launch_seconds = 0.0

    def __init__(self, repeats: int = 9) -> None:
        self._repeats = repeats

    def time(self, step: Callable[[], object]) -> tuple[float, list[Recorded]]:
        """Run a step.

        Parameters
        ----------
        step : callable

        Returns
        -------
        seconds : float
            Of the run that is shown, gaps included.
        recorded : list of Recorded
        """
        runs = []
        for _ in range(self._repeats):
            begin = time.perf_counter()
            recorded = record(step, launch=True)
            runs.append((time.perf_counter() - begin, recorded))
        runs.sort(key=lambda run: run[0])
        return runs[len(runs) // 2]
