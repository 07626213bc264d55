"""``llm-numba profile``: where the time of one step goes, operation by operation.

The step is the model's own: its forward pass, the logits and the choice of the likeliest token.
:func:`llm_numba.ops.watch` tells which operations it consists of,
:func:`llm_numba.runtime.intercept` which launches these are, and the shapes of the operands how
many bytes each must move. On a GPU the launches run as one CUDA graph. Its time is taken when
nobody watches; the kernels' own times come from CUPTI in further replays (:mod:`.cupti`). By its
records the next kernel begins as soon as one ends, within a tenth of a microsecond; but that begin
is where the GPU takes up the launch. A kernel that does nothing takes a microsecond too, and this
price of a launch is measured and told apart. On a CPU each operation is timed by the wall clock,
and what is between them is Python.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from llm_numba import ops
from llm_numba.bench.profile_traffic import (
    Landmarks,
    StepShape,
    Traffic,
    flops_of,
    name_of,
    traffic_of,
)
from llm_numba.errors import DeviceError
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder, ForwardBatch
from llm_numba.runtime import Graph, Launch, capture, intercept, launch_all, upload, zeros

_LAUNCHES = 200  # in the graph that tells what a launch takes

Span = tuple[float, float]  # begin and end in seconds, from the begin of the step


@dataclass(frozen=True)
class Operation:
    """One operation of a step.

    Attributes
    ----------
    name : str
        Of the operation, ``"linear"``.
    weight : str
        What it multiplies by or looks up, ``"qkv"``; may be empty.
    layer : int or None
    traffic : Traffic
        The fewest bytes that it must move.
    flops : int
    kernels : tuple of str
        That it launched; empty on a CPU.
    spans : tuple of (float, float)
        Begin and end of each kernel, or of the operation itself on a CPU, in seconds from the
        begin of the step.
    """

    name: str
    weight: str
    layer: int | None
    traffic: Traffic
    flops: int
    kernels: tuple[str, ...]
    spans: tuple[Span, ...]

    @property
    def label(self) -> str:
        """What it is called in tables: operation and weight."""
        return f"{self.name} {self.weight}".strip()

    @property
    def seconds(self) -> float:
        """That its kernels run, gaps between them not counted."""
        return sum(end - begin for begin, end in self.spans)


@dataclass(frozen=True)
class Profile:
    """Where the time of a step went.

    Attributes
    ----------
    phase : {"decode", "prefill"}
    shape : StepShape
    operations : list of Operation
        In the order in which they ran.
    seconds : float
        Of the whole step while nobody watched: the median of some runs.
    launch_seconds : float
        Of a kernel that does nothing, in a graph of such; 0 on a CPU.
    engine_seconds : float or None
        Of a step of the engine, with all that the host does about it; None if not measured.
    """

    phase: str
    shape: StepShape
    operations: list[Operation]
    seconds: float
    launch_seconds: float = 0.0
    engine_seconds: float | None = None

    @property
    def traffic(self) -> Traffic:
        """The fewest bytes that the step must move."""
        return sum((each.traffic for each in self.operations), Traffic())

    @property
    def kernel_seconds(self) -> float:
        """That some kernel ran."""
        return sum(each.seconds for each in self.operations)

    def parts(self, bytes_per_second: float) -> dict[str, float]:
        """Divide the step's time.

        Parameters
        ----------
        bytes_per_second : float
            The memory's speed, as a copy reaches it.

        Returns
        -------
        dict of str to float
            Seconds: what reading the weights and the keys and values takes at that speed, what
            launching as many kernels takes that do nothing, what the kernels take beyond that, the
            gaps between them, and what the host adds to it, if that was measured. A negative
            figure is one that others hide.
        """
        moved = self.traffic
        known = {
            "weights": moved.weights / bytes_per_second,
            "kv": moved.kv / bytes_per_second,
            "launches": self.launch_seconds * sum(len(each.kernels) for each in self.operations),
        }
        parts = known | {
            "rest of the kernels": self.kernel_seconds - sum(known.values()),
            "gaps": self.seconds - self.kernel_seconds,
        }
        if self.engine_seconds is not None:
            parts["host"] = self.engine_seconds - self.seconds
        return parts


@dataclass(frozen=True)
class Recorded:
    """An operation as it was called: what it was given, returned and launched."""

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


@contextmanager
def prepared_batch(
    model: Decoder, kv_cache: PagedKVCache, shape: StepShape
) -> Iterator[ForwardBatch]:
    """Make the inputs of a step, with blocks of the cache for its sequences.

    What the blocks hold is left as it is: no kernel's time depends on it.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
        With enough free blocks; they are given back.
    shape : StepShape

    Yields
    ------
    ForwardBatch
    """
    B, S, T = shape.batch, shape.new_tokens, shape.context
    tables = [kv_cache.new_table() for _ in range(B)]
    try:
        slots = [table.append_slots(T)[T - S :] for table in tables]
        numbers = (
            np.arange(B * S) % model.config.vocab_size,
            np.tile(np.arange(T - S, T), B),
            np.concatenate(slots),
            np.array([table.blocks for table in tables]),
            np.arange(B + 1) * S,
            np.full(B, T),
        )
        arrays = [np.ascontiguousarray(each, np.int32) for each in numbers]
        yield ForwardBatch(*upload(arrays, like=model.lm_head))
    finally:
        for table in tables:
            table.free()


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


def profile_step(
    model: Decoder,
    kv_cache: PagedKVCache,
    shape: StepShape,
    clock: GPUClock | WallClock,
) -> Profile:
    """Profile one step of a model.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
        On its device, with enough free blocks.
    shape : StepShape
    clock : GPUClock or WallClock
        The one of the model's device.
    """
    with prepared_batch(model, kv_cache, shape) as batch:
        last = np.arange(1, shape.batch + 1, dtype=np.int32) * shape.new_tokens - 1
        (rows,) = upload([last], like=model.lm_head)

        def step() -> None:
            hidden = model.forward(batch, kv_cache)
            if shape.new_tokens > 1:
                hidden = ops.embedding(rows, hidden)
            ops.argmax(model.logits(hidden))

        step()  # compiles
        if isinstance(clock, WallClock):
            seconds, recorded = clock.time(step)
            spans = [[each.span] for each in recorded]
        else:
            recorded = record(step, launch=False)
            launches = [launch for each in recorded for launch in each.launches]
            seconds, times = clock.time(launches)
            rest = iter(times)
            spans = [[next(rest) for _ in each.launches] for each in recorded]
        landmarks = Landmarks(model, kv_cache)
        operations = [
            _operation(each, landmarks, shape, tuple(when))
            for each, when in zip(recorded, spans, strict=True)
        ]
    phase = "decode" if shape.new_tokens == 1 else "prefill"
    return Profile(phase, shape, operations, seconds, clock.launch_seconds)


def _operation(
    recorded: Recorded, landmarks: Landmarks, shape: StepShape, spans: tuple[Span, ...]
) -> Operation:
    call = recorded.call
    weight, layer = name_of(call, landmarks)
    return Operation(
        call.name,
        weight,
        layer,
        traffic_of(call, recorded.result, landmarks, shape),
        flops_of(call, shape),
        tuple(launch.kernel.py_func.__name__ for launch in recorded.launches),
        spans,
    )
