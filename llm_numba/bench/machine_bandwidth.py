"""How many bytes a second each memory gives, and how many of them a stride wastes."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llm_numba.bench.gpu_timing import GPUTimer, capture_launches
from llm_numba.bench.machine_cycles import seen_by_gpu
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.kernels.basics_bandwidth import (
    AT_ONCE,
    THREADS,
    read_around,
    read_shared,
    read_strided,
)
from llm_numba.runtime import Launch, launch_all, to_device, to_host

# Bytes of the array that is read around and around.
SIZES = tuple(1 << exponent for exponent in range(16, 31))
STRIDES = (1, 2, 4, 8, 16, 32)
OFFSETS = (1, 8, 16)
WARPS = (1, 2, 4, 8, 16, 32, 64)  # on an SM

_PACKET_BYTES = 16
_READ_BYTES = 1 << 31  # by all threads together, whatever the array
_COPY_BYTES = 1 << 28
_HOST_READ_BYTES = 1 << 27
_BLOCKS_A_MULTIPROCESSOR = 8
_WORDS = 1 << 24  # about so many are read with each stride
_SHARED_ROUNDS = 512
_SHARED_THREADS = 1024
_TO_GPU, _TO_HOST = 1, 2  # cudaMemcpyKind


def bandwidths(repeats: int) -> Iterator[Result]:
    """Read shared memory, arrays of all sizes, and the host's memory; copy from and to it.

    Parameters
    ----------
    repeats : int

    Yields
    ------
    Result
        ``bandwidth/shared`` in bytes a cycle of one SM; all others in GB/s:
        ``bandwidth/bytes=65536``, ``bandwidth/host/read``, ``bandwidth/host/to_gpu``,
        ``bandwidth/host/to_gpu_pageable``, ``bandwidth/host/from_gpu``, ``bandwidth/host/both``.
    """
    yield shared_bandwidth(repeats)
    timer = GPUTimer(repeats, warmup=2)
    for num_bytes in SIZES:
        array = to_device(np.zeros(num_bytes // 4, np.float32), "cuda")
        yield _read(timer, array, _full(), f"bandwidth/bytes={num_bytes}", f"{num_bytes:,} bytes")
    yield from _host(timer)


def strides(repeats: int) -> Iterator[Result]:
    """Read as many words with each stride, and from each offset.

    Parameters
    ----------
    repeats : int

    Yields
    ------
    Result
        Words that were asked for, in GB/s, as ``stride/stride=2`` and ``stride/offset=1``.
    """
    import cupy

    timer = GPUTimer(repeats, warmup=2)
    grid, block = _full()
    words = _as_many_for_each(_WORDS, grid * block)
    x = cupy.zeros(max(STRIDES) * words + max(OFFSETS), np.float32)
    sums = cupy.empty(grid * block, np.float32)
    cases = [(f"stride={stride}", stride, 0) for stride in STRIDES]
    cases += [(f"offset={offset}", 1, offset) for offset in OFFSETS]
    for key, stride, offset in cases:
        work = Launch(read_strided, (grid,), (block,), (x, stride, offset, words, sums))
        timing = timer.time([lambda work=work: launch_all([work])], capture_launches)
        rates = [4 * words / seconds / 1e9 for seconds in timing.seconds]
        yield Result(
            f"stride/{key}",
            f"stride {stride}, first word {offset}",
            summarize(rates, "GB/s", warmup=timing.warmup),
            {"stride": stride, "offset": offset, "words": words},
        )


def hiding(repeats: int) -> Iterator[Result]:
    """Read memory with few and with many warps on each SM.

    Parameters
    ----------
    repeats : int

    Yields
    ------
    Result
        In GB/s, as ``warps/warps=8``.
    """
    import cupy

    timer = GPUTimer(repeats, warmup=2)
    multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    array = to_device(np.zeros(SIZES[-1] // 4, np.float32), "cuda")
    for warps in WARPS:
        block = min(32 * warps, THREADS)
        grid = multiprocessors * 32 * warps // block
        yield _read(timer, array, (grid, block), f"warps/warps={warps}", f"{warps} warps on an SM")


def shared_bandwidth(repeats: int, device: str = "cuda") -> Result:
    """Read shared memory with all threads of a block.

    Parameters
    ----------
    repeats : int
    device : {"cuda", "sim"}
        In the simulator, which has no time, the figure is that of one cycle.

    Returns
    -------
    Result
        In bytes a cycle of one SM.
    """
    sums = to_device(np.zeros(_SHARED_THREADS, np.float32), device)
    taken = to_device(np.zeros(1, np.int64), device)
    rounds = _SHARED_ROUNDS if device == "cuda" else 1
    work = Launch(read_shared, (1,), (_SHARED_THREADS,), (rounds, sums, taken))
    rates = []
    for _ in range(1 + repeats):
        launch_all([work])
        num_bytes = _SHARED_THREADS * rounds * AT_ONCE * _PACKET_BYTES
        rates.append(num_bytes / max(int(to_host(taken)[0]), 1))
    statistic = summarize(rates[1:], "bytes/cycle", warmup=1)
    return Result("bandwidth/shared", "shared memory of one SM", statistic)


def _host(timer: GPUTimer) -> Iterator[Result]:
    import cupy
    import cupyx

    pinned = [cupyx.empty_pinned(_COPY_BYTES, np.uint8) for _ in range(2)]
    for each in pinned:
        each[:] = 0
    words = seen_by_gpu(pinned[0].view(np.float32))
    what = "the host's memory, by a kernel"
    yield _read(timer, words, _full(), "bandwidth/host/read", what, _HOST_READ_BYTES)
    here = [cupy.zeros(_COPY_BYTES, np.uint8) for _ in range(2)]
    pageable = np.zeros(_COPY_BYTES, np.uint8)
    other = cupy.cuda.Stream(non_blocking=True)

    def copy(target: int, source: int, kind: int, stream: Any = None) -> None:
        stream = cupy.cuda.get_current_stream() if stream is None else stream
        cupy.cuda.runtime.memcpyAsync(target, source, _COPY_BYTES, kind, stream.ptr)

    def to_gpu() -> None:
        copy(here[0].data.ptr, pinned[0].ctypes.data, _TO_GPU)

    def both() -> None:
        stream = cupy.cuda.get_current_stream()
        other.wait_event(stream.record())
        copy(pinned[1].ctypes.data, here[1].data.ptr, _TO_HOST, other)
        to_gpu()
        stream.wait_event(other.record())

    ways: tuple[tuple[str, str, int, Callable[[], object]], ...] = (
        ("to_gpu", "copy to the GPU, pinned", 1, to_gpu),
        (
            "from_gpu", "copy from the GPU, pinned", 1,
            lambda: copy(pinned[1].ctypes.data, here[1].data.ptr, _TO_HOST),
        ),
        ("both", "both at once, together", 2, both),
        (
            "to_gpu_pageable", "copy to the GPU, ordinary memory", 1,
            lambda: copy(here[0].data.ptr, pageable.ctypes.data, _TO_GPU),
        ),
    )  # fmt: skip
    for key, what, times, work in ways:
        timing = timer.time([work])
        rates = [times * _COPY_BYTES / seconds / 1e9 for seconds in timing.seconds]
        statistic = summarize(rates, "GB/s", warmup=timing.warmup)
        yield Result(f"bandwidth/host/{key}", what, statistic, {"bytes": _COPY_BYTES})


def _read(
    timer: GPUTimer,
    array: Any,
    form: tuple[int, int],
    name: str,
    what: str,
    num_bytes: int = _READ_BYTES,
) -> Result:
    """Read about so many bytes of an array with a grid and blocks of some form."""
    import cupy

    grid, block = form
    packets = _as_many_for_each(num_bytes // _PACKET_BYTES, grid * block)
    sums = cupy.empty(grid * block, np.float32)
    work = Launch(read_around, (grid,), (block,), (array, packets, sums))
    timing = timer.time([lambda: launch_all([work])], capture_launches)
    read = packets * _PACKET_BYTES
    rates = [read / seconds / 1e9 for seconds in timing.seconds]
    shape = {"bytes": array.nbytes, "read": read, "threads": grid * block}
    return Result(name, what, summarize(rates, "GB/s", warmup=timing.warmup), shape)


def _full() -> tuple[int, int]:
    """Return grid and block that leave no place for a warp free."""
    import cupy

    multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    return _BLOCKS_A_MULTIPROCESSOR * multiprocessors, THREADS


def _as_many_for_each(items: int, threads: int) -> int:
    """Return about so many items, a whole number of rounds of all threads."""
    return max(1, items // (AT_ONCE * threads)) * AT_ONCE * threads
