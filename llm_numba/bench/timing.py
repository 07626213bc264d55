"""Repeated measurements and what is reported of them: the median and how far samples stray.

The median, because a laptop's samples have a long upper tail (other programs, frequency changes)
that a mean would follow. The 10th and 90th percentiles stand beside it, so a reader sees whether
two figures really differ.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Statistic:
    """A measured quantity.

    Attributes
    ----------
    unit : str
        Unit of the three figures, for example ``"s"`` or ``"tokens/s"``.
    median, p10, p90 : float
        Percentiles of the samples, linearly interpolated.
    n : int
        Number of samples.
    warmup : int
        Runs made before the first sample and not counted.
    """

    unit: str
    median: float
    p10: float
    p90: float
    n: int
    warmup: int

    def to_json(self) -> dict[str, str | float | int]:
        """Return the fields as a JSON object."""
        return asdict(self)


def summarize(samples: Sequence[float], unit: str, *, warmup: int = 0) -> Statistic:
    """Reduce samples to their median, 10th and 90th percentile.

    Parameters
    ----------
    samples : sequence of float
        At least one measurement.
    unit : str
        Their unit.
    warmup : int
        Uncounted runs made before them.

    Raises
    ------
    ValueError
        If there is no sample.
    """
    if not samples:
        raise ValueError("summarize needs at least one sample")
    p10, median, p90 = (float(q) for q in np.quantile(samples, [0.1, 0.5, 0.9]))
    return Statistic(unit, median, p10, p90, n=len(samples), warmup=warmup)


def repeat(
    measure: Callable[[], float], *, repeats: int, warmup: int, unit: str = "s"
) -> Statistic:
    """Call a function that measures itself, and summarise what it returns.

    Parameters
    ----------
    measure : callable
        Runs the work once and returns the quantity, in `unit`.
    repeats, warmup : int
        Counted and uncounted calls. The first calls of a process pay for page faults, caches and
        threads that are started on demand, which is not what is to be measured.
    unit : str
        Unit of what `measure` returns.

    Raises
    ------
    ValueError
        If `repeats` is less than one.
    """
    for _ in range(warmup):
        measure()
    return summarize([measure() for _ in range(repeats)], unit, warmup=warmup)


def wall_time(
    work: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """Turn work into a measurement of its wall time in seconds.

    Parameters
    ----------
    work : callable
        What to run; its result is dropped.
    clock : callable
        A clock in seconds that never goes back.
    """

    def measure() -> float:
        start = clock()
        work()
        return clock() - start

    return measure
