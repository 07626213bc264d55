"""``llm-numba bench sweep``: threads and registers against occupancy and time.

For each candidate of a kernel's launch (:mod:`llm_numba.kernels.tuning`), and for each limit on
registers that the compiler is held to: what it made of the kernel, how many warps an SM then holds,
and how long it takes. A limit that is too tight spills; one that is too loose keeps warps out.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numba import cuda

from llm_numba.bench.gpu_timing import GPUTimer, capture_launches
from llm_numba.bench.kernels import device_sets
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.bench.tuner import chosen_tunables
from llm_numba.errors import LaunchError
from llm_numba.kernels.basics_occupancy import occupancy
from llm_numba.kernels.tuning import Shape, Tunable
from llm_numba.runtime import Launch, launch_all

# None is as the kernel says itself. A matrix product keeps more sums than the lower limits allow.
_FEW = (None, 32, 40, 48, 64, 96, 128)
REGISTER_LIMITS = {"softmax": _FEW, "gemv": _FEW, "gemm": (None, 64, 96, 128, 168, 255)}
SHAPES: dict[str, Shape] = {
    "softmax": (16384, 8192),
    "gemv": (1, 4096, 4096),
    "gemm": (4096, 4096, 4096),
}
DTYPES = {"softmax": "bfloat16", "gemv": "bfloat16", "gemm": "float32"}


@dataclass(frozen=True)
class SweepSettings:
    """What to run.

    Attributes
    ----------
    names : tuple of str
        Kernels; of :data:`SHAPES`.
    repeats, warmup : int
        Counted and uncounted runs.
    budget_seconds : float
        Slow work is repeated less often.
    """

    names: tuple[str, ...] = tuple(SHAPES)
    repeats: int = 20
    warmup: int = 2
    budget_seconds: float = 0.1

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)


def measure(settings: SweepSettings) -> Iterator[Result]:
    """Run the sweep on this machine's GPU.

    Parameters
    ----------
    settings : SweepSettings

    Yields
    ------
    Result
        Time of each candidate under each limit that holds the compiler back and can be launched;
        its ``shape`` says what the compiler made of it, and the occupancy.
    """
    timer = GPUTimer(settings.repeats, settings.warmup, settings.budget_seconds)
    for tunable in chosen_tunables(settings.names):
        yield from sweep(tunable, SHAPES[tunable.name], DTYPES[tunable.name], timer)


def sweep(tunable: Tunable, shape: Shape, dtype: str, timer: GPUTimer) -> Iterator[Result]:
    """Time one kernel's candidates under each limit.

    Parameters
    ----------
    tunable : Tunable
    shape : tuple of int
    dtype : str
    timer : GPUTimer

    Yields
    ------
    Result
    """
    from llm_numba.runtime.gpu import resources_on_gpu

    sets = device_sets(tunable.ladder.operands(shape, np.dtype(dtype), 0), "cuda")
    sizes = dict(zip(tunable.ladder.axes.split(), shape, strict=True)) | {"dtype": dtype}
    candidates = tunable.candidates(shape, dtype)
    for config, label in zip(candidates, labels(candidates), strict=True):
        plans = [tunable.plan(config, **each) for each in sets]
        for limit in REGISTER_LIMITS[tunable.name]:
            limited = [under_limit(plan, limit) for plan in plans]
            works = [lambda plan=plan: launch_all(plan) for plan in limited]
            registers, local_bytes, shared_bytes = resources_on_gpu(limited[0][0])
            threads = int(np.prod(limited[0][0].block))
            found = occupancy(threads, registers, shared_bytes, _capability())
            if not found.blocks:
                continue  # a block of so many threads has not so many registers
            try:
                timing = timer.time(works, capture_launches)
            except LaunchError:
                continue
            key = f"{tunable.name}/{label}/registers={limit or 'own'}"
            yield Result(
                key,
                key,
                summarize([1e6 * each for each in timing.seconds], "us", warmup=timing.warmup),
                sizes
                | {
                    "config": label,
                    "limit": limit,
                    "threads": threads,
                    "registers": registers,
                    "local_bytes": local_bytes,
                    "shared_bytes": shared_bytes,
                    "occupancy": found.fraction,
                    "limited_by": ", ".join(found.limited_by),
                },
            )
            if limit is not None and registers < limit:
                break  # the compiler has all that it wants; larger limits change nothing


def labels(configs: Sequence[Any]) -> list[str]:
    """Name configs by the numbers in which they differ.

    Parameters
    ----------
    configs : sequence of NamedTuple
    """
    fields = [config._asdict() for config in configs]
    names = [name for name in fields[0] if len({each[name] for each in fields}) > 1]
    return [", ".join(f"{name} {each[name]}" for name in names) for each in fields]


def under_limit(plan: Sequence[Launch], limit: int | None) -> tuple[Launch, ...]:
    """Return launches of the same kernels, compiled under a limit on registers.

    Parameters
    ----------
    plan : sequence of Launch
    limit : int or None
        Registers of a thread; None changes nothing.
    """
    if limit is None:
        return tuple(plan)
    return tuple(each._replace(kernel=_limited(each.kernel, limit)) for each in plan)


@functools.cache
def _limited(kernel: Any, limit: int) -> Any:
    fast = kernel.targetoptions["fastmath"]
    return cuda.jit(max_registers=limit, fastmath=fast)(kernel.py_func)


@functools.cache
def _capability() -> tuple[int, int]:
    major, minor = cuda.get_current_device().compute_capability
    return major, minor
