r"""What exchanging arrays takes, by formula: n bytes, P ranks, bandwidth b, latency a a message.

======================  =========================================
all-reduce, ring        2 (P - 1) (n / (P b) + a)
all-reduce, one shot    (P - 1) n / b + a
all-gather, ring        (P - 1) (n / (P b) + a), n on each rank afterwards
send                    n / b + a
======================  =========================================

A ring passes each P-th of the array on from neighbour to neighbour, once around to add it up and
once to hand the sum out: few bytes, many messages. In one shot each rank reads the whole arrays of
all others at the same time: one latency, but P - 1 times the bytes. Short messages want the one,
long messages the other, and :func:`all_reduce` takes what is faster. Where rings were measured, a
:class:`LinkTable` takes the place of the formulas.

References
----------
Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH",
2005.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llm_numba.errors import LLMNumbaError
from llm_numba.parallel.measured import TimesTable
from llm_numba.planner.gpus import Link


def ring_all_reduce(num_bytes: float, ranks: int, link: Link) -> float:
    """Return the seconds of an all-reduce that goes around twice.

    Parameters
    ----------
    num_bytes : float
        n, of the array on each rank.
    ranks : int
        P.
    link : Link
    """
    return 2 * ring_all_gather(num_bytes, ranks, link)


def one_shot_all_reduce(num_bytes: float, ranks: int, link: Link) -> float:
    """Return the seconds of an all-reduce where each rank reads all others' arrays.

    Parameters
    ----------
    num_bytes, ranks, link
        As of :func:`ring_all_reduce`.
    """
    if ranks == 1:
        return 0.0
    return (ranks - 1) * num_bytes / link.bytes_per_second + link.latency


def all_reduce(num_bytes: float, ranks: int, link: Link) -> float:
    """Return the seconds of the faster one.

    Parameters
    ----------
    num_bytes, ranks, link
        As of :func:`ring_all_reduce`.
    """
    both = (ring_all_reduce, one_shot_all_reduce)
    return min(each(num_bytes, ranks, link) for each in both)


def ring_all_gather(num_bytes: float, ranks: int, link: Link) -> float:
    """Return the seconds of an all-gather that goes around once.

    Parameters
    ----------
    num_bytes : float
        That each rank has afterwards.
    ranks, link
        As of :func:`ring_all_reduce`.
    """
    part = num_bytes / ranks
    return (ranks - 1) * (part / link.bytes_per_second + link.latency)


def send(num_bytes: float, link: Link) -> float:
    """Return the seconds of a message from one rank to another.

    Parameters
    ----------
    num_bytes : float
    link : Link
    """
    return num_bytes / link.bytes_per_second + link.latency


@dataclass(frozen=True)
class LinkTable:
    """Measured times of exchanges, by operation and number of ranks.

    Attributes
    ----------
    source : str
        The record's file.
    times : dict of (str, int) to tuple of (float, float)
        Bytes and seconds, by bytes, of ``"all_reduce"``, ``"all_gather"`` and ``"send"``.
    """

    source: str
    times: dict[tuple[str, int], tuple[tuple[float, float], ...]]

    @classmethod
    def from_record(cls, record: dict[str, Any], source: str) -> "LinkTable":
        """Read a record of ``llm-numba bench comm``, which has a result for each size.

        Parameters
        ----------
        record : dict
            Its results in µs whose shape has ``operation``, ``ranks`` and ``bytes``. Of several
            ways to do the same, the fastest counts.
        source : str
            Its file.

        Raises
        ------
        LLMNumbaError
            If no result is of that form.
        """
        best: dict[tuple[str, int], dict[float, float]] = {}
        for result in record["results"]:
            shape = result.get("shape", {})
            if {"operation", "ranks", "bytes"} <= shape.keys() and result["unit"] == "µs":
                sizes = best.setdefault((shape["operation"], shape["ranks"]), {})
                seconds = 1e-6 * result["median"]
                sizes[shape["bytes"]] = min(seconds, sizes.get(shape["bytes"], seconds))
        if not best:
            raise LLMNumbaError(
                f"{source} has no times of exchanges.",
                "Name a record of `llm-numba bench comm`.",
            )
        return cls(source, {key: tuple(sorted(sizes.items())) for key, sizes in best.items()})

    @classmethod
    def from_times(cls, table: TimesTable) -> "LinkTable":
        """Take the fastest times of a table that engines choose by.

        Parameters
        ----------
        table : TimesTable
        """
        times: dict[tuple[str, int], tuple[tuple[float, float], ...]] = {}
        for operation, paths in table.times.items():
            best: dict[float, float] = {}
            for num_bytes, microseconds in (point for points in paths.values() for point in points):
                seconds = 1e-6 * microseconds
                best[num_bytes] = min(seconds, best.get(num_bytes, seconds))
            times[operation, table.kind.ranks] = tuple(sorted(best.items()))
        return cls(table.source["file"], times)

    def joined(self, other: "LinkTable") -> "LinkTable":
        """Return both tables as one; where both have times, this one's.

        Parameters
        ----------
        other : LinkTable
        """
        return LinkTable(f"{self.source}, {other.source}", other.times | self.times)

    def fit(self, link: Link) -> Link:
        """Return a link with the bandwidth and the latency of the all-reduces of two ranks.

        Between two ranks both formulas are ``n / b + a``: a is the shortest time of all, and b is
        what the longest array has.

        Parameters
        ----------
        link : Link
            As the data sheet has it; returned as it is if two ranks were not measured.
        """
        known = self.times.get(("all_reduce", 2), ())
        latency = min((seconds for _, seconds in known), default=0.0)
        if not known or known[-1][1] <= latency:
            return link
        num_bytes, seconds = known[-1]
        speed = num_bytes / (seconds - latency)
        return replace(
            link, bytes_per_second=speed, latency=latency, source=self.source, fitted=True
        )

    def hop(self, num_bytes: float) -> float | None:
        """Return the seconds of a message to the next rank, or None if none was measured.

        Parameters
        ----------
        num_bytes : float
        """
        counts = [ranks for operation, ranks in self.times if operation == "send"]
        return self.seconds("send", min(counts), num_bytes) if counts else None

    def covers(self, ranks: int) -> bool:
        """Whether all that tensor ranks exchange was measured with so many.

        Parameters
        ----------
        ranks : int
        """
        return all((each, ranks) in self.times for each in ("all_reduce", "all_gather"))

    def seconds(self, operation: str, ranks: int, num_bytes: float) -> float | None:
        """Return the time of an exchange: in a straight line between two sizes.

        Parameters
        ----------
        operation : str
        ranks : int
        num_bytes : float
            Below the least size, the time of that; beyond the greatest, in proportion.

        Returns
        -------
        float or None
            None where it was not measured with so many ranks.
        """
        known = self.times.get((operation, ranks))
        if known is None:
            return None
        sizes = [size for size, _ in known]
        i = bisect_left(sizes, num_bytes)
        if i == 0:
            return known[0][1]
        (small, low) = known[i - 1]
        if i == len(known):
            return low * num_bytes / small
        (large, high) = known[i]
        return low + (high - low) * (num_bytes - small) / (large - small)


@dataclass(frozen=True)
class Exchange:
    """Exchanges among the ranks of one group: by a measured table where there is one, or formula.

    Attributes
    ----------
    ranks : int
        P.
    link : Link
    table : LinkTable or None
        Of that link.
    """

    ranks: int
    link: Link
    table: LinkTable | None = None

    def all_reduce(self, num_bytes: float) -> float:
        """Return the seconds of an all-reduce.

        Parameters
        ----------
        num_bytes : float
        """
        return self._time("all_reduce", num_bytes, all_reduce)

    def all_gather(self, num_bytes: float) -> float:
        """Return the seconds of an all-gather.

        Parameters
        ----------
        num_bytes : float
            That each rank has afterwards.
        """
        return self._time("all_gather", num_bytes, ring_all_gather)

    def _time(
        self, operation: str, num_bytes: float, formula: Callable[[float, int, Link], float]
    ) -> float:
        if self.ranks == 1:
            return 0.0
        measured = self.table and self.table.seconds(operation, self.ranks, num_bytes)
        return formula(num_bytes, self.ranks, self.link) if measured is None else measured
