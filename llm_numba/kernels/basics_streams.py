r"""Streams and events: copying and computing at the same time, and timing it.

Work in one stream runs in order; work in two streams may overlap. A GPU has engines of their own
for copies to it and from it, and its SMs besides: three things can go on at once, if they belong
to different chunks of the data.

::

    one stream     | in  in  in  in | saxpy | out out out out |
    two streams    | in 0 | s0 | out 0 |      | in 2 | s2 | out 2 |
                          | in 1  | s1 | out 1 |      | in 3  | s3 | out 3 |      ----> time

SAXPY moves 8 bytes an element in, and 4 out, over a link (PCIe) that is many times slower than the
GPU's memory. So the copies in are the ceiling, and overlapping can gain at most 12/8 = 1.5 times.

Copies overlap only if the host's memory is *pinned*, that is, stays where it is: from ordinary
memory the driver copies to a pinned buffer first, and the call waits for it.

Sources: "CUDA C++ Programming Guide", asynchronous concurrent execution; Harris, "How to Overlap
Data Transfers in CUDA C/C++", 2012.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import basics, checks
from llm_numba.runtime import kernel_device

# Queues its work for a part of the arrays on a stream.
Stage = Callable[[slice, Any], object]


class Span(NamedTuple):
    """When the GPU worked on one stage of one chunk.

    Attributes
    ----------
    stage : str
    chunk : int
    begin, end : float
        Milliseconds since the first chunk was begun with. A stage is taken to begin when its stream
        is free for it, and the engine too, that is, when it has done the chunk before.
    """

    stage: str
    chunk: int
    begin: float
    end: float


@cuda.jit
def grind(x, rounds):
    """Compute on each element as long as one likes: `rounds` multiply-adds, one after the other."""
    i = cuda.grid(1)
    if i < x.size:
        value = x[i]
        for _ in range(rounds):
            value = value * float32(0.5) + float32(1)
        x[i] = value


def run_in_chunks(
    length: int, stages: Mapping[str, Stage], *, chunks: int, streams: int
) -> list[Span]:
    """Take arrays through several stages, chunk by chunk, and wait for the end.

    Parameters
    ----------
    length : int
        Elements of the arrays.
    stages : mapping of str to callable
        In their order. Each queues its work for a slice on a stream, and waits for nothing.
    chunks : int
        In how many pieces; 1 overlaps nothing.
    streams : int
        The chunks go to them in turn.

    Returns
    -------
    list of Span
        By the GPU's own clock.
    """
    import cupy

    lanes = [cupy.cuda.Stream(non_blocking=True) for _ in range(streams)]
    start = cupy.cuda.Event()
    start.record(lanes[0])
    for lane in lanes[1:]:
        lane.wait_event(start)
    marks = []
    for chunk, part in enumerate(_parts(length, chunks)):
        lane = lanes[chunk % streams]
        for name, stage in stages.items():
            begin = lane.record()
            stage(part, lane)
            marks.append((name, chunk, begin, lane.record()))
    # Until here nothing waited: the host has only queued work.
    for lane in lanes:
        lane.synchronize()
    spans, engine_free = [], dict.fromkeys(stages, 0.0)
    for name, chunk, *events in marks:
        begin, end = (cupy.cuda.get_elapsed_time(start, event) for event in events)
        spans.append(Span(name, chunk, max(begin, engine_free[name]), end))
        engine_free[name] = end
    return spans


def saxpy_from_host(
    alpha: float, x: np.ndarray, y: np.ndarray, *, chunks: int = 8, streams: int = 2
) -> tuple[np.ndarray, float]:
    """Multiply a vector by a number and add another, both in the host's memory, on a GPU.

    Parameters
    ----------
    alpha : float
    x, y : float32 [N]
        NumPy arrays.
    chunks : int
        In how many pieces they are copied and computed; 1 overlaps nothing.
    streams : int
        The chunks go to them in turn.

    Returns
    -------
    out : float32 [N]
        A NumPy array.
    milliseconds : float
        From the first copy to the last, as the GPU's own clock measured it.

    Raises
    ------
    KernelArgumentError
        If x and y are not float32 vectors of one length.
    DeviceError
        If there is no GPU.
    """
    for name, value in (("x", x), ("y", y)):
        if value.dtype != np.float32 or value.shape != (x.size,):
            raise KernelArgumentError(
                f"Argument {name!r} is {value.dtype} of shape {value.shape}.",
                f"It must be float32 of shape ({x.size},).",
            )
    chunks = checks.integer("chunks", chunks, at_least=1)
    streams = checks.integer("streams", streams, at_least=1)
    kernel_device("cuda")
    if x.size == 0:
        return np.empty_like(x), 0.0
    import cupy
    import cupyx

    host_x, host_y, host_out = (cupyx.empty_pinned(x.shape, np.float32) for _ in range(3))
    host_x[:], host_y[:] = x, y
    device_x, device_y, device_out = (cupy.empty(x.shape, np.float32) for _ in range(3))
    # The first launch compiles, which is not what is to be timed.
    basics.saxpy(alpha, device_x, device_y, out=device_out)
    # Other streams know nothing of this one: what it still does must be over before they begin.
    cupy.cuda.get_current_stream().synchronize()

    def copy_in(part: slice, lane: Any) -> None:
        device_x[part].set(host_x[part], stream=lane)
        device_y[part].set(host_y[part], stream=lane)

    def compute(part: slice, lane: Any) -> None:
        basics.saxpy(alpha, device_x[part], device_y[part], out=device_out[part], stream=lane)

    def copy_out(part: slice, lane: Any) -> None:
        device_out[part].get(out=host_out[part], stream=lane, blocking=False)

    stages = {"copy in": copy_in, "compute": compute, "copy out": copy_out}
    spans = run_in_chunks(x.size, stages, chunks=chunks, streams=streams)
    return host_out.copy(), max(span.end for span in spans)


def _parts(length: int, chunks: int) -> list[slice]:
    """Cut a vector into chunks of nearly equal length, none of them empty."""
    cuts = [length * chunk // chunks for chunk in range(chunks + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(cuts) if a < b]
