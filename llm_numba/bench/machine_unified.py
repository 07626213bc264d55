"""Unified memory beside copies: one address for host and GPU, and pages that move by themselves.

Both ways begin with an array that the host has just written, and end when the GPU has computed on
all of it. With a copy, the program says what goes where. In unified memory a kernel that touches a
page of the host waits until the driver has moved it; a prefetch asks for all pages before.
"""

import ctypes
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.basics_streams import grind
from llm_numba.runtime import Launch, launch_all

_LENGTH = 1 << 26  # float32, 256 MiB
_THREADS = 256


def unified(repeats: int) -> Iterator[Result]:
    """Bring an array to the GPU and compute on it, by a copy and in unified memory.

    Parameters
    ----------
    repeats : int

    Yields
    ------
    Result
        Milliseconds: ``unified/copy``, ``unified/faults`` and ``unified/prefetch`` of an array that
        the host wrote, ``unified/there`` and ``unified/ordinary`` of one that is on the GPU.

    Raises
    ------
    LLMNumbaError
        If the driver does not move pages on demand.
    """
    import cupy
    import cupyx

    device, stream = cupy.cuda.Device(), cupy.cuda.get_current_stream()
    if not device.attributes["ConcurrentManagedAccess"]:
        raise LLMNumbaError(
            "This driver moves no pages of unified memory on demand.", "Leave this part out."
        )
    pinned = cupyx.empty_pinned(_LENGTH, np.float32)
    ordinary = cupy.empty(_LENGTH, np.float32)
    memory = cupy.cuda.malloc_managed(4 * _LENGTH)
    managed = cupy.ndarray(_LENGTH, np.float32, memory)
    of_host = np.ctypeslib.as_array((ctypes.c_float * _LENGTH).from_address(memory.ptr))

    def compute(x: Any) -> None:
        launch_all([Launch(grind, (-(-_LENGTH // _THREADS),), (_THREADS,), (x, 1))], stream)

    def copied() -> None:
        ordinary.set(pinned, stream=stream)
        compute(ordinary)

    def prefetched() -> None:
        cupy.cuda.runtime.memPrefetchAsync(memory.ptr, 4 * _LENGTH, device.id, stream.ptr)
        compute(managed)

    ways: tuple[tuple[str, str, np.ndarray | None, Callable[[], None]], ...] = (
        ("copy", "copied from pinned memory", pinned, copied),
        ("faults", "unified memory, pages move when they are touched", of_host,
         lambda: compute(managed)),
        ("prefetch", "unified memory, pages asked for before", of_host, prefetched),
        ("there", "unified memory that is on the GPU", None, lambda: compute(managed)),
        ("ordinary", "memory of the GPU", None, lambda: compute(ordinary)),
    )  # fmt: skip
    for key, what, written, work in ways:
        seconds = [_seconds(written, work, stream) for _ in range(1 + repeats)]
        statistic = summarize([1e3 * each for each in seconds[1:]], "ms", warmup=1)
        yield Result(f"unified/{key}", what, statistic, {"bytes": 4 * _LENGTH})


def _seconds(written: np.ndarray | None, work: Callable[[], None], stream: Any) -> float:
    """Have the host write the array, then time the work on it, by the host's clock."""
    if written is not None:
        written[:] = 1
    stream.synchronize()
    begin = time.perf_counter()
    work()
    stream.synchronize()
    return time.perf_counter() - begin
