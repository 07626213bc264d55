"""What an SM counts itself: cycles of instructions, of loads, of conflicts, of parted warps.

Each kernel here reads the SM's clock before and after its work and leaves the difference in an
array, so launches and events play no part. A run is one launch.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from llm_numba.bench.budget import Budget
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.kernels import basics_banks, basics_chase, basics_divergence, basics_latency
from llm_numba.runtime import Launch, has_capability, kind_of, launch_all, to_device, to_host

_KIB, _MIB = 1 << 10, 1 << 20
# Bytes of the rings: each power of 2, and the middle between two.
RING_SIZES = tuple(sorted([*(1 << e for e in range(12, 30)), *(3 << e for e in range(11, 28))]))
SHARED_RING = 16 * _KIB
HOST_RING = 64 * _MIB
STRIDES = (1, 2, 4, 8, 16, 32, 33)
PATHS = (1, 2, 4, 8, 16, 32)

_WARP = 32
_MANY = 1024  # threads of a block, as many as it may have
_ROUNDS = 64
_STEPS = 16384
_HOST_STEPS = 2048
# A ring of so many lines is walked once before it counts; of a larger one no cache holds much.
_WARM_LINES = 1 << 19
_WARM_STEPS = 1 << 16


def instructions(repeats: int, device: str = "cuda") -> Iterator[Result]:
    """Measure how long an instruction's result takes.

    Parameters
    ----------
    repeats : int
    device : {"cuda", "sim"}
        In the simulator, which has no time, all figures are 0.

    Yields
    ------
    Result
        Cycles of one operation, as ``instruction/shuffle``.
    """
    taken = taken_on(device)
    for operation in basics_latency.OPERATIONS:
        if not has_capability(taken, operation.capability):
            continue
        dtype = np.dtype(operation.dtype)
        start, operand, out = (
            to_device(values, device)
            for values in (np.zeros(_WARP, dtype), np.ones(1, dtype), np.zeros(_WARP, dtype))
        )
        args = (start, operand, _ROUNDS, out, taken)
        runs = runs_of(Launch(operation.kernel, (1,), (_WARP,), args), taken, repeats)
        count = _ROUNDS * basics_latency.IN_A_ROUND
        cycles = [float(run[0]) / count for run in runs]
        name = f"instruction/{operation.name}"
        yield Result(name, operation.what, summarize(cycles, "cycles", warmup=1))


def chases(repeats: int, budget: Budget, device: str = "cuda") -> Iterator[Result]:
    """Walk rings in shared memory, in global memory, and in the host's.

    Parameters
    ----------
    repeats : int
    budget : Budget
        With a part "chase"; the largest rings come last.
    device : {"cuda", "sim"}

    Yields
    ------
    Result
        Cycles and nanoseconds of one step, as ``chase/shared`` and ``chase_time/shared``,
        ``chase/bytes=4096``, ``chase/host``; and the clock that follows from them, ``clock``.
    """
    ring = to_device(basics_chase.make_ring(SHARED_RING, line_words=1), device)
    runs = _walk(ring, _STEPS, repeats, shared=True)
    yield from _steps("shared", "shared memory", runs, _STEPS, SHARED_RING)
    megahertz = [1e3 * cycles / max(nanoseconds, 1) for cycles, nanoseconds in runs]
    yield Result("clock", "the SMs' clock", summarize(megahertz, "MHz", warmup=1))
    if device == "cuda":
        import cupyx

        pinned = cupyx.empty_pinned(HOST_RING // basics_chase.WORD_BYTES, np.uint32)
        pinned[:] = basics_chase.make_ring(HOST_RING)
        ring = seen_by_gpu(pinned)
        runs = _walk(ring, _HOST_STEPS, repeats)
        yield from _steps("host", "pinned memory of the host", runs, _HOST_STEPS, HOST_RING)
    for num_bytes in RING_SIZES:
        key = f"bytes={num_bytes}"
        if not budget.allows(f"chase/{key}", "chase"):
            break
        ring = to_device(basics_chase.make_ring(num_bytes), device)
        runs = _walk(ring, _STEPS, repeats)
        yield from _steps(key, f"a ring of {_size(num_bytes)}", runs, _STEPS, num_bytes)


def banks(repeats: int, device: str = "cuda") -> Iterator[Result]:
    """Measure loads from shared memory with and without conflicts.

    Parameters
    ----------
    repeats : int
    device : {"cuda", "sim"}

    Yields
    ------
    Result
        Cycles of one request, as ``banks/one_warp/stride=2``: until it is over, in one warp alone;
        ``banks/many_warps/stride=2``: that an SM takes for each, with 32 warps.
    """
    for label, what, threads in (
        ("one_warp", "one warp alone", _WARP),
        ("many_warps", "a request of 32 warps", _MANY),
    ):
        for stride in STRIDES:
            out = to_device(np.zeros(threads, np.uint32), device)
            taken = taken_on(device)
            args = (stride, _ROUNDS, out, taken)
            runs = runs_of(Launch(basics_banks.stay, (1,), (threads,), args), taken, repeats)
            requests = _ROUNDS * basics_banks.IN_A_ROUND * threads // _WARP
            each = [float(run[0]) / requests for run in runs]
            yield Result(
                f"banks/{label}/stride={stride}",
                f"stride {stride}, {what}",
                summarize(each, "cycles", warmup=1),
                {"stride": stride, "threads": threads},
            )


def paths(repeats: int, device: str = "cuda") -> Iterator[Result]:
    """Measure a branch that parts lanes, or warps.

    Parameters
    ----------
    repeats : int
    device : {"cuda", "sim"}

    Yields
    ------
    Result
        Cycles of the whole block, as ``paths/lanes/paths=4`` and ``paths/warps/paths=4``.
    """
    for label, group in (("lanes", 1), ("warps", _WARP)):
        for count in PATHS:
            out = to_device(np.zeros(_MANY, np.float32), device)
            taken = taken_on(device)
            args = (count, group, _ROUNDS, out, taken)
            runs = runs_of(Launch(basics_divergence.part, (1,), (_MANY,), args), taken, repeats)
            yield Result(
                f"paths/{label}/paths={count}",
                f"{label} go {count} way{'s' * (count > 1)}",
                summarize([float(run[0]) for run in runs], "cycles", warmup=1),
                {"paths": count, "group": group, "threads": _MANY},
            )


def seen_by_gpu(pinned: np.ndarray) -> Any:
    """Return pinned memory of the host as the GPU sees it: at the same address.

    Parameters
    ----------
    pinned : ndarray
        As ``cupyx.empty_pinned`` makes them. It is kept alive.

    Returns
    -------
    cupy.ndarray
        What reads it goes over the bus.
    """
    import cupy

    memory = cupy.cuda.UnownedMemory(
        pinned.ctypes.data, pinned.nbytes, pinned, cupy.cuda.Device().id
    )
    return cupy.ndarray(pinned.shape, pinned.dtype, cupy.cuda.MemoryPointer(memory, 0))


def taken_on(device: str) -> Any:
    """Make the array that a kernel leaves its cycles and nanoseconds in.

    Parameters
    ----------
    device : {"cuda", "sim"}

    Returns
    -------
    int64 [2]
    """
    return to_device(np.zeros(2, np.int64), device)


def runs_of(launch: Launch, taken: Any, repeats: int) -> list[np.ndarray]:
    """Launch once for nothing, then several times; return what was left in an array each time.

    Parameters
    ----------
    launch : Launch
    taken : int64 [2]
        The array.
    repeats : int

    Returns
    -------
    list of int64 [2]
    """
    found = []
    for _ in range(1 + repeats):
        launch_all([launch])
        found.append(np.array(to_host(taken)))
    return found[1:]


def _walk(ring: Any, steps: int, repeats: int, shared: bool = False) -> list[np.ndarray]:
    """Walk a ring, each time from where the last walk ended; return cycles and nanoseconds."""
    device = kind_of(ring)
    place, taken = to_device(np.zeros(1, np.uint32), device), taken_on(device)
    kernel, shared_bytes = basics_chase.chase, 0
    if shared:
        kernel, shared_bytes = basics_chase.chase_shared, ring.nbytes
    lines = ring.nbytes // basics_chase.LINE_BYTES
    warm = max(steps, lines if lines <= _WARM_LINES else _WARM_STEPS)
    launch_all([Launch(kernel, (1,), (1,), (ring, warm, place, taken), shared_bytes)])
    walk = Launch(kernel, (1,), (1,), (ring, steps, place, taken), shared_bytes)
    return runs_of(walk, taken, repeats)


def _steps(
    key: str, what: str, runs: list[np.ndarray], steps: int, num_bytes: int
) -> Iterator[Result]:
    shape = {"bytes": num_bytes, "steps": steps}
    for name, unit, column in (("chase", "cycles", 0), ("chase_time", "ns", 1)):
        each = [float(run[column]) / steps for run in runs]
        yield Result(f"{name}/{key}", what, summarize(each, unit, warmup=1), shape)


def _size(num_bytes: int) -> str:
    for unit, name in ((_MIB, "MiB"), (_KIB, "KiB")):
        if num_bytes % unit == 0:
            return f"{num_bytes // unit} {name}"
    return f"{num_bytes} bytes"
