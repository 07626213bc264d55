"""Which path carries which array: what works, what was measured, and what a user wants.

A path that is fast for short arrays need not be for long ones. ``llm-numba bench comm`` measures
all paths that work, by operation and size; from its record this module takes, for each array, the
path that was fastest. Between two sizes a time is read off the straight line through both, on
scales of factors; beyond the largest it grows with the bytes. Where nothing was measured the first
path that works is taken.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_numba.errors import ParallelError

# By operation, then by path: bytes and microseconds, in order of the former.
Times = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]

# All else this path hands to another one, and only chance parts their times.
_OF_PEER = ("all_reduce", "all_gather")
_LAUNCH_US = 1000.0  # beside which the launch of a graph does not count


@dataclass(frozen=True)
class Offer:
    """A path, and whether it works here.

    Attributes
    ----------
    path : str
    problem : str
        Why it does not, to be read behind "comm='nccl' cannot be used:"; empty if it does.
    """

    path: str
    problem: str = ""


@dataclass(frozen=True)
class Selection:
    """Which path carries which array.

    Attributes
    ----------
    paths : tuple of str
        That work; the first is taken where nothing was measured.
    refused : dict of str to str
        The others, and why.
    times : Times
        Of the paths that work.
    reason : str
        Why it is these.
    """

    paths: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    times: Times = field(default_factory=dict)
    reason: str = "the first that works"

    @property
    def used(self) -> tuple[str, ...]:
        """The paths that carry something, in the order of `paths`."""
        sizes = [
            (operation, size)
            for operation, measured in self.times.items()
            for points in measured.values()
            for size, _ in points
        ]
        used = {self.paths[0], *(self.path_of(*each) for each in sizes)}
        return tuple(path for path in self.paths if path in used)

    def path_of(self, operation: str, num_bytes: int) -> str:
        """Return the path for an array.

        Parameters
        ----------
        operation : str
            As in the record: ``"all_reduce"``, ``"send"``.
        num_bytes : int
            Of the whole array.

        Returns
        -------
        str
        """
        measured = self.times.get(operation, {})
        by_time = ((_time(points, num_bytes), path) for path, points in measured.items())
        return min(by_time, default=(0.0, self.paths[0]))[1]

    def explain(self) -> list[str]:
        """Say what was chosen, and why nothing else was.

        Returns
        -------
        list of str
            ``"all_reduce: mpi to 4,096 bytes, mpi-staged beyond"``; ``"all else: mpi"``;
            ``"because: ..."``; ``"not nccl: ..."``.
        """
        lines = []
        for operation, measured in self.times.items():
            sizes = sorted({size for points in measured.values() for size, _ in points})
            chosen = [self.path_of(operation, size) for size in sizes]
            ends = [i for i in range(len(sizes) - 1) if chosen[i] != chosen[i + 1]]
            pieces = [f"{chosen[i]} to {sizes[i]:,} bytes" for i in ends]
            pieces.append(f"{chosen[-1]} beyond" if ends else chosen[-1])
            lines.append(f"{operation}: {', '.join(pieces)}")
        rest = "all else" if lines else "everything"
        lines += [f"{rest}: {self.paths[0]}", f"because: {self.reason}"]
        return lines + [f"not {path}: {problem}" for path, problem in self.refused.items()]


def select(
    offers: Sequence[Offer], wanted: str = "auto", times: Times | None = None, source: str = ""
) -> Selection:
    """Choose paths.

    Parameters
    ----------
    offers : sequence of Offer
        The best first, as far as one knows without measuring. One works at least.
    wanted : str
        "auto", or the path for everything.
    times : Times, optional
    source : str, optional
        Where they are from.

    Returns
    -------
    Selection

    Raises
    ------
    ParallelError
        If the path that is wanted does not work, or there is none of that name.
    """
    working = tuple(offer.path for offer in offers if not offer.problem)
    refused = {offer.path: offer.problem for offer in offers if offer.problem}
    if wanted != "auto":
        if wanted not in working:
            problem = refused.get(wanted, "there is no such path between these ranks")
            raise ParallelError(
                f"comm={wanted!r} cannot be used: {problem}.",
                f"Choose one of: auto, {', '.join(working)}.",
            )
        return Selection((wanted,), reason="asked for")
    usable: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for operation, measured in (times or {}).items():
        if found := {path: measured[path] for path in working if path in measured}:
            usable[operation] = found
    if not usable:
        return Selection(working, refused)
    return Selection(working, refused, usable, f"the fastest in {source}")


def read_times(path: Path, num_ranks: int) -> Times:
    """Read what ``llm-numba bench comm`` has measured.

    Parameters
    ----------
    path : Path
        Its record.
    num_ranks : int
        Of the group that exchanges arrays. The record's number of ranks that is nearest is taken.

    Returns
    -------
    Times

    Raises
    ------
    ParallelError
        If the file cannot be read, or holds no such record.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        rows = [(result["shape"], float(result["median"])) for result in results]
        rows = [(shape, time) for shape, time in rows if shape["bytes"] > 0 and time > 0]
        rows = [(shape, time) for shape, time in rows if _is_own(**shape)]
        rows = [(shape, time) for shape, time in rows if not is_launch_alone(shape, time)]
        nearest = min((shape["ranks"] for shape, _ in rows), key=lambda P: abs(P - num_ranks))
        times: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for shape, time in rows:
            if shape["ranks"] == nearest:
                by_path = times.setdefault(shape["operation"], {})
                by_path.setdefault(shape["path"], []).append((shape["bytes"], time))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParallelError(
            f"{path} is no record of what ranks' operations take: {error!r}.",
            "Measure it: mpirun -n 4 llm-numba bench comm --out FILE.json.",
        ) from error
    return {
        operation: {path: sorted(points) for path, points in by_path.items()}
        for operation, by_path in times.items()
    }


def is_launch_alone(shape: Mapping[str, Any], time: float) -> bool:
    """Tell whether a result is the time of a graph's launch, and not of what the graph holds.

    So it is with a graph of one short call. Older records have such: calls were counted by a first
    one, which compiles.

    Parameters
    ----------
    shape : mapping
        Of the result, from ``llm-numba bench comm``.
    time : float
        Its median, in µs.
    """
    return bool(shape.get("in_graph")) and shape.get("calls") == 1 and time < _LAUNCH_US


def _is_own(path: str, operation: str, **_: object) -> bool:
    """Whether a path does an operation itself, and it is one between ranks."""
    return operation != "copy" and (path != "peer" or operation in _OF_PEER)


def _time(points: Sequence[tuple[int, float]], num_bytes: int) -> float:
    """Return the time of an array between those that were measured, or beyond."""
    sizes = [size for size, _ in points]
    at = bisect_left(sizes, num_bytes)
    if at == 0:
        return points[0][1]
    if at == len(points):
        size, time = points[-1]
        return time * num_bytes / size
    (low, time), (high, longer) = points[at - 1], points[at]
    share = math.log(num_bytes / low) / math.log(high / low)
    return time * (longer / time) ** share
