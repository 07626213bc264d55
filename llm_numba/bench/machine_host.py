"""What launches cost the host, and what streams let happen at the same time."""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llm_numba.bench.gpu_timing import GPUTimer, capture_launches
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.kernels.basics import clear
from llm_numba.kernels.basics_streams import grind, run_in_chunks
from llm_numba.runtime import Launch, launch_all

_THREADS = 256
_LAUNCHES = 200  # at a time: the driver's queue holds some more before the host must wait
_LENGTH = 1 << 24
# Streams and chunks of the four ways.
WAYS = ((1, 1), (1, 8), (2, 8), (4, 8))


def launches(repeats: int) -> Iterator[Result]:
    """Launch a kernel that does next to nothing, in several ways.

    Parameters
    ----------
    repeats : int

    Yields
    ------
    Result
        Microseconds of the host's for one kernel: ``launch/numba``, ``launch/runtime``,
        ``launch/prepared``, ``launch/graph``; ``launch/graph_gpu`` is the GPU's for each kernel of
        the graph, ``launch/graph_call`` the host's for the whole graph.
    """
    import cupy
    from numba import cuda
    from numba.cuda.core.errors import NumbaPerformanceWarning

    from llm_numba.runtime.gpu import noting, stream_handle

    counts = cupy.zeros(_THREADS, np.int32)
    work = Launch(clear, (1,), (_THREADS,), (counts,))
    kept: list[Any] = []
    with cupy.cuda.Stream(non_blocking=True) as stream:
        with noting(lambda prepared, *_: kept.append(prepared)):
            launch_all([work])
        numba_counts, handle = cuda.as_cuda_array(counts), stream_handle()
        numba_stream = cuda.external_stream(stream.ptr)
        with warnings.catch_warnings():
            # Numba warns of a single block, which is what is timed; it keeps the configuration.
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            clear.configure(1, _THREADS, numba_stream)
        ways: tuple[tuple[str, str, Callable[[], object]], ...] = (
            (
                "numba", "Numba's own launch",
                lambda: clear[1, _THREADS, numba_stream](numba_counts),
            ),
            ("runtime", "runtime.launch", lambda: launch_all([work])),
            ("prepared", "prepared once, queued again", lambda: kept[0].queue(handle)),
        )  # fmt: skip
        for key, what, queue in ways:
            yield _on_host(f"launch/{key}", what, queue, _LAUNCHES, 1, repeats)
        replay = capture_launches([lambda: launch_all([work])] * _LAUNCHES)
        yield _on_host("launch/graph", "in a graph", replay, 1, _LAUNCHES, repeats)
        yield _on_host("launch/graph_call", f"a graph of {_LAUNCHES}", replay, 1, 1, repeats)
        timing = GPUTimer(repeats, warmup=2).time([replay])
        each = [1e6 * seconds / _LAUNCHES for seconds in timing.seconds]
        statistic = summarize(each, "us", warmup=timing.warmup)
        yield Result("launch/graph_gpu", "of the GPU, in a graph", statistic)


def overlaps(repeats: int, timelines: dict[str, list[list[Any]]]) -> Iterator[Result]:
    """Copy an array to the GPU, compute, copy it back, in chunks and streams.

    Parameters
    ----------
    repeats : int
    timelines : dict
        Takes the quickest run of each way: stage, chunk, and begin and end in milliseconds.

    Yields
    ------
    Result
        Milliseconds from the first copy to the last, as ``overlap/streams=2/chunks=8``.
    """
    import cupy
    import cupyx

    host = cupyx.empty_pinned(_LENGTH, np.float32)
    host[:] = 1
    there = cupy.empty(_LENGTH, np.float32)

    def copy_in(part: slice, lane: Any) -> None:
        there[part].set(host[part], stream=lane)

    def copy_out(part: slice, lane: Any) -> None:
        there[part].get(out=host[part], stream=lane, blocking=False)

    def compute(part: slice, lane: Any, rounds: int) -> None:
        x = there[part]
        launch_all([Launch(grind, (-(-x.size // _THREADS),), (_THREADS,), (x, rounds))], lane)

    copy_in(slice(0, _LENGTH), cupy.cuda.get_current_stream())
    rounds = _rounds_as_long_as_a_copy(copy_in, compute)
    stages = {
        "copy in": copy_in,
        "compute": lambda part, lane: compute(part, lane, rounds),
        "copy out": copy_out,
    }
    for streams, chunks in WAYS:
        runs = [
            run_in_chunks(_LENGTH, stages, chunks=chunks, streams=streams)
            for _ in range(1 + repeats)
        ][1:]
        ends = [max(span.end for span in run) for run in runs]
        name = f"overlap/streams={streams}/chunks={chunks}"
        best = runs[int(np.argmin(ends))]
        timelines[name] = [
            [span.stage, span.chunk, round(span.begin, 4), round(span.end, 4)] for span in best
        ]
        yield Result(
            name,
            f"{streams} stream{'s' * (streams > 1)}, {chunks} chunk{'s' * (chunks > 1)}",
            summarize(ends, "ms", warmup=1),
            {"streams": streams, "chunks": chunks, "bytes": 4 * _LENGTH, "rounds": rounds},
        )


def _rounds_as_long_as_a_copy(copy_in: Callable, compute: Callable) -> int:
    """Return how many rounds take the GPU about as long as the copy of the whole array."""
    tried = 1024
    stages = {"copy": copy_in, "compute": lambda part, lane: compute(part, lane, tried)}
    for _ in range(2):  # the first compiles
        copy, work = run_in_chunks(_LENGTH, stages, chunks=1, streams=1)
    return max(1, round(tried * (copy.end - copy.begin) / (work.end - work.begin)))


def _on_host(
    name: str, what: str, queue: Callable[[], object], calls: int, kernels: int, repeats: int
) -> Result:
    """Time calls by the host's clock, while the GPU works its queue off."""
    import cupy

    samples = []
    for _ in range(1 + repeats):
        cupy.cuda.runtime.deviceSynchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            queue()
        samples.append(1e6 * (time.perf_counter() - begin) / calls / kernels)
    return Result(name, what, summarize(samples[1:], "us", warmup=1), {"launches": calls * kernels})
