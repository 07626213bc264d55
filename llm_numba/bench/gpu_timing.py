"""Timing on a GPU: events around each launch, and the card's own ceilings in the same run.

A launch returns before the GPU has begun, so the host's clock says nothing of a kernel. Events
are recorded on the GPU, before and after. Work is queued without waiting for it: while one launch
runs, the host prepares the next, and its own time stays out of the figure, unless it is the
longer of the two, which :attr:`Timing.host_bound` tells.

What takes some microseconds only is captured into a CUDA graph, many launches one after another,
and the graph is timed: so neither the host nor the events around a launch weigh in, and it is how
an engine runs such work.

Inputs take turns. What fits in the L2 cache would otherwise be read from there, and not from
memory.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.runtime import Launch, capture

Work = Callable[[], object]
# Takes work that queues itself, and returns what replays all of it at once.
Capture = Callable[[Sequence[Work]], Work]

_PACKETS = 4  # under way at once in each thread of `read_all`
_READ_THREADS = 256
_READ_BLOCKS_A_MULTIPROCESSOR = 8
_DEVICE_TO_DEVICE = 3  # cudaMemcpyDeviceToDevice
# Work shorter than this is captured; a graph of it takes several times as long.
_SHORT_SECONDS = 100e-6
_GRAPH_SECONDS = 400e-6
# From this part of the GPU's time on, the host's may have held it up.
_HOST_BOUND = 0.8


class Events(Protocol):
    """Marks in the GPU's queue of work."""

    def record(self) -> Any:
        """Put a mark behind all work queued so far, and return it."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the time between two marks that the GPU has passed."""

    def synchronize(self) -> None:
        """Wait until the GPU has done all work."""


class CudaEvents:
    """CUDA events on the current stream."""

    def record(self) -> Any:
        """Put an event into the stream."""
        import cupy

        event = cupy.cuda.Event()
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the time between two events."""
        import cupy

        return cupy.cuda.get_elapsed_time(begin, end) / 1e3

    def synchronize(self) -> None:
        """Wait for the device."""
        import cupy

        cupy.cuda.runtime.deviceSynchronize()


@dataclass(frozen=True)
class Timing:
    """Times of one piece of work.

    Attributes
    ----------
    seconds : list of float
        On the GPU, one a run.
    host_seconds : float
        That the host took to queue a run, on average.
    warmup : int
        Runs before the first that counts.
    captured : int
        Runs in a CUDA graph, of which each figure is the mean; 0 if each was timed by itself.
    """

    seconds: list[float]
    host_seconds: float
    warmup: int
    captured: int = 0

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return float(np.median(self.seconds))

    @property
    def host_bound(self) -> bool:
        """Whether the GPU may have waited for the host: then the figure is not the kernel's."""
        return self.host_seconds > _HOST_BOUND * self.median


@dataclass(frozen=True)
class GPUTimer:
    """Times work on a GPU.

    Attributes
    ----------
    repeats : int
        Runs that count, at most.
    warmup : int
        Runs before them: they compile, fill caches and raise clocks.
    budget_seconds : float
        Slow work is repeated less often, but five times at least.
    ahead : int
        Uncounted runs right before those that count. The GPU is still at them when the first that
        counts is queued; else that has the host's time to launch it, which matters where there are
        few runs.
    events : Events
    clock : callable
        The host's, in seconds.
    """

    repeats: int = 30
    warmup: int = 3
    budget_seconds: float = 0.5
    ahead: int = 0
    events: Events = field(default_factory=CudaEvents)
    clock: Callable[[], float] = time.perf_counter

    def time(self, works: Sequence[Work], capture: Capture | None = None) -> Timing:
        """Time work.

        Parameters
        ----------
        works : sequence of callable
            Each queues the same work on inputs of its own; they take turns.
        capture : callable, optional
            Makes a CUDA graph of short work, and of work that the host holds up.
        """
        for number in range(self.warmup):
            works[number % len(works)]()
        begin = self.events.record()
        queued = self.clock()
        works[self.warmup % len(works)]()
        queued = self.clock() - queued
        end = self.events.record()
        self.events.synchronize()
        once = max(self.events.seconds(begin, end), 1e-9)
        # Of work that the host queues more slowly than the GPU does it, `once` says nothing.
        if capture is None or once > max(_SHORT_SECONDS, queued / _HOST_BOUND):
            timing = self._repeated(works, once, self.warmup + 1)
            if capture is None or not timing.host_bound:
                return timing
            # The host was slow when it was looked at, or since.
            once = min(timing.seconds)
        count = max(len(works), math.ceil(_GRAPH_SECONDS / once))
        replay = capture([works[number % len(works)] for number in range(count)])
        replay()
        whole = self._repeated([replay], count * once, self.warmup + 1 + count)
        seconds = [each / count for each in whole.seconds]
        return Timing(seconds, whole.host_seconds / count, whole.warmup, captured=count)

    def _repeated(self, works: Sequence[Work], once: float, warmup: int) -> Timing:
        repeats = int(min(self.repeats, max(5, self.budget_seconds / once)))
        marks = []
        for number in range(self.ahead):
            works[(warmup + number) % len(works)]()
        warmup += self.ahead
        queued = self.clock()
        for number in range(repeats):
            begin = self.events.record()
            works[(warmup + number) % len(works)]()
            marks.append((begin, self.events.record()))
        host = (self.clock() - queued) / repeats
        self.events.synchronize()
        seconds = [self.events.seconds(begin, end) for begin, end in marks]
        return Timing(seconds, host, warmup)


def seconds_on_gpu(work: Callable[..., object], *args: Any) -> float:
    """Return how long kernel launches take on the GPU: the median of some runs, warmed up.

    Each run works on the same arrays. What fits into the L2 cache is read from there.

    Parameters
    ----------
    work : callable
        Launches kernels, and neither waits for them nor looks at what they computed.
    *args
        Its arguments.
    """
    return GPUTimer().time([lambda: work(*args)], capture_launches).median


def capture_launches(works: Sequence[Work]) -> Work:
    """Capture kernel launches on CuPy's current stream into a CUDA graph.

    Parameters
    ----------
    works : sequence of callable
        They must have run before: compiling is not allowed during a capture.

    Returns
    -------
    callable
        Launches the graph on the stream that is current then.
    """

    def all_of_it() -> None:
        for work in works:
            work()

    return capture(all_of_it).launch


def capture_torch(torch: Any, works: Sequence[Work]) -> Work:
    """Capture PyTorch's work into a CUDA graph.

    Parameters
    ----------
    torch : module
    works : sequence of callable

    Returns
    -------
    callable
        Launches the graph on PyTorch's current stream.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    return graph.replay


@cuda.jit
def read_all(x, sums):
    """Read an array once, 64 bytes under way in each thread: what reading alone can reach.

    Each thread stores the sum of what it read, or the compiler would drop the loads. The length
    must be a multiple of 16 elements a thread.
    """
    total = float32(0)
    step = cuda.gridsize(1) * 4
    for i in range(cuda.grid(1) * 4, x.size, _PACKETS * step):
        a = ptx.load16(x, i)
        b = ptx.load16(x, i + step)
        c = ptx.load16(x, i + 2 * step)
        d = ptx.load16(x, i + 3 * step)
        for k in range(4):
            total += (a[k] + b[k]) + (c[k] + d[k])
    sums[cuda.grid(1)] = total


def read_launch(x: Any, sums: Any) -> Launch:
    """Launch :func:`read_all` on an array.

    Parameters
    ----------
    x : float32 [N]
        N a multiple of 16 times the length of `sums`.
    sums : float32 [threads]
        A multiple of 256.
    """
    return Launch(read_all, (sums.size // _READ_THREADS,), (_READ_THREADS,), (x, sums))


def copy_bandwidth(timer: GPUTimer, num_bytes: int = 1 << 30) -> list[float]:
    """Copy memory of the GPU by the driver's own means.

    Parameters
    ----------
    timer : GPUTimer
    num_bytes : int
        Of the source; much more than any cache holds.

    Returns
    -------
    list of float
        Bytes read and written a second, one a copy.
    """
    import cupy

    left, right = (cupy.empty(num_bytes, np.uint8) for _ in range(2))
    left.fill(1)

    def copy(target: Any, source: Any) -> None:
        stream = cupy.cuda.get_current_stream().ptr
        cupy.cuda.runtime.memcpyAsync(
            target.data.ptr, source.data.ptr, num_bytes, _DEVICE_TO_DEVICE, stream
        )

    timing = timer.time([lambda: copy(right, left), lambda: copy(left, right)])
    return [2 * num_bytes / seconds for seconds in timing.seconds]


def read_bandwidth(timer: GPUTimer, num_bytes: int = 1 << 30) -> list[float]:
    """Read memory of the GPU and write next to nothing.

    Parameters
    ----------
    timer : GPUTimer
    num_bytes : int
        About so many; much more than any cache holds.

    Returns
    -------
    list of float
        Bytes read a second, one a run.
    """
    import cupy

    from llm_numba.runtime import launch

    multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    threads = _READ_THREADS * _READ_BLOCKS_A_MULTIPROCESSOR * multiprocessors
    length = num_bytes // 4 // (16 * threads) * (16 * threads)
    sums = cupy.empty(threads, np.float32)
    arrays = [cupy.full(length, 0.5, np.float32) for _ in range(2)]
    timing = timer.time([lambda x=x: launch(*read_launch(x, sums)) for x in arrays])
    return [4 * length / seconds for seconds in timing.seconds]
