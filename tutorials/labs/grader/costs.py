"""What a student's launches cost, and how a check bounds it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from grader.verdict import fail

_WORDS = {
    "global_requests": "requests to global memory",
    "global_sectors": "sectors of global memory",
    "ideal_sectors": "sectors that the same bytes would fill side by side",
    "shared_requests": "requests to shared memory",
    "shared_wavefronts": "wavefronts of shared memory",
    "ideal_wavefronts": "wavefronts that would do without conflicts",
    "bank_ways": "words wanted of one bank by one request (1 is no conflict)",
    "divergent": "branches that split a warp",
    "barriers": "barriers",
    "shared_bytes": "bytes of shared memory in a block",
    "local_bytes": "bytes of local arrays in a thread",
    "launches": "launches",
    "threads": "threads",
}
_WORST = ("bank_ways", "shared_bytes", "local_bytes")
# By what a line is costliest where the line itself does not know the figure.
_BY = {"ideal_sectors": "global_sectors", "ideal_wavefronts": "shared_wavefronts"}


@dataclass(frozen=True)
class Touched:
    """Elements of one argument that threads touched.

    Attributes
    ----------
    name : str
        The kernel's parameter.
    loads, stores, atomics : int
        Counted once for each thread and time.
    """

    name: str
    loads: int = 0
    stores: int = 0
    atomics: int = 0

    def exactly(self, kind: str, count: int, why: str) -> None:
        """Ask for a number of loads, stores or atomics.

        Parameters
        ----------
        kind : {"loads", "stores", "atomics"}
        count : int
            Of elements.
        why : str
            A sentence that says how it can be had.
        """
        self._ask(getattr(self, kind) == count, kind, f"{count}", why)

    def at_most(self, kind: str, count: int, why: str) -> None:
        """Ask for no more loads, stores or atomics; as :meth:`exactly`."""
        self._ask(getattr(self, kind) <= count, kind, f"at most {count}", why)

    def _ask(self, met: bool, kind: str, wanted: str, why: str) -> None:
        if not met:
            done = {"loads": "loaded", "stores": "stored", "atomics": "updated atomically"}[kind]
            fail(
                f"Elements of {self.name} are {done} {getattr(self, kind)} times in all, and it "
                f"should be {wanted}. {why}"
            )


@dataclass(frozen=True)
class Launched:
    """One launch.

    Attributes
    ----------
    kernel : str
    grid, block : int or tuple of int
    parameters : tuple of str
    report : dict
        The simulator's counts.
    """

    kernel: str
    grid: Any
    block: Any
    parameters: tuple[str, ...]
    report: dict[str, Any]

    @property
    def arrays(self) -> dict[str, Touched]:
        """What was touched, by the kernel's parameter."""
        counts = self.report["arrays"]
        return {name: Touched(name, **counts.get(name, {})) for name in self.parameters}

    def __getattr__(self, name: str) -> Any:
        if name in _WORDS and name in self.report:
            return self.report[name]
        raise AttributeError(name)


@dataclass(frozen=True)
class Ran:
    """What a launcher, or one launch, did. Costs are summed over the launches.

    Attributes
    ----------
    launched : tuple of Launched
    returned : object
        What the launcher returned.
    """

    launched: tuple[Launched, ...]
    returned: Any = None

    @property
    def launches(self) -> int:
        """How many kernels were launched."""
        return len(self.launched)

    @property
    def arrays(self) -> dict[str, Touched]:
        """What the only launch touched, by the kernel's parameter; several launches: added up."""
        total: dict[str, Touched] = {}
        for launch in self.launched:
            for name, more in launch.arrays.items():
                so_far = total.get(name, Touched(name))
                total[name] = Touched(name, so_far.loads + more.loads, so_far.stores + more.stores,
                                      so_far.atomics + more.atomics)  # fmt: skip
        return total

    @property
    def threads(self) -> int:
        """How many threads all launches had together."""
        shapes = [(launch.grid, launch.block) for launch in self.launched]
        return sum(int(np.prod(grid) * np.prod(block)) for grid, block in shapes)

    def __getattr__(self, name: str) -> int:
        if name not in _WORDS:
            raise AttributeError(name)
        values = [launch.report[name] for launch in self.launched]
        return max(values, default=0) if name in _WORST else sum(values)

    def at_most(self, cost: str, bound: float, why: str) -> None:
        """Ask that a cost does not exceed a bound.

        Parameters
        ----------
        cost : str
            ``"global_sectors"``, ``"bank_ways"``, ``"barriers"``, ``"launches"``, ...
        bound : float
        why : str
            A sentence that says how it can be had.

        Raises
        ------
        Failed
            With the costliest line.
        """
        self._ask(getattr(self, cost) <= bound, cost, f"at most {bound:g}", why)

    def at_least(self, cost: str, bound: float, why: str) -> None:
        """Ask that a cost reaches a bound; as :meth:`at_most`."""
        self._ask(getattr(self, cost) >= bound, cost, f"at least {bound:g}", why)

    def exactly(self, cost: str, count: float, why: str) -> None:
        """Ask for a cost; as :meth:`at_most`."""
        self._ask(getattr(self, cost) == count, cost, f"{count:g}", why)

    def _ask(self, met: bool, cost: str, wanted: str, why: str) -> None:
        if met:
            return
        line, detail = self._costliest(cost)
        have = getattr(self, cost)
        fail(f"Counted: {have} {_WORDS[cost]}; it should be {wanted}. {why}{detail}", line)

    def _costliest(self, cost: str) -> tuple[int, str]:
        """Return the line that has most of a cost, and what it does."""
        by = _BY.get(cost, cost)
        lines = [each for launch in self.launched for each in launch.report["lines"] if by in each]
        worst = max(lines, key=lambda each: each[by], default=None)
        if worst is None or not worst[by]:
            return 0, ""
        if by.startswith("global"):
            detail = (
                f"its {worst['global_requests']} requests move {worst['global_sectors']} sectors, "
                f"where {worst['ideal_sectors']} would hold the same bytes side by side"
            )
        elif by in ("shared_wavefronts", "bank_ways"):
            detail = (
                f"its {worst['shared_requests']} requests take {worst['shared_wavefronts']} "
                f"wavefronts, where {worst['ideal_wavefronts']} would do; the longest queue at a "
                f"bank is {worst['bank_ways']}"
            )
        else:
            detail = f"there are {worst[by]} of them"
        return worst["line"], f"\nThe costliest line is {worst['line']}: {detail}."


@dataclass
class Raced:
    """Times of a student's launches and of ours, on one GPU, in turns.

    Attributes
    ----------
    rounds : tuple of (float, float)
        Seconds of the student's and of ours, a pair a round.
    against : str
        Ours.
    bound : float or None
        What was last asked of the ratio.
    """

    rounds: tuple[tuple[float, float], ...]
    against: str
    bound: float | None = None

    @property
    def ratio(self) -> float:
        """The student's time in units of ours: the median of all rounds."""
        return float(np.median([theirs / ours for theirs, ours in self.rounds]))

    def at_most(self, ratio: float, why: str) -> None:
        """Ask for a time of at most so many times ours.

        Parameters
        ----------
        ratio : float
        why : str
            A sentence that says how it can be had.
        """
        self.bound = ratio
        if self.ratio > ratio:
            fail(
                f"This takes {self.ratio:.2f} times as long as {self.against}, and should take at "
                f"most {ratio:g} times as long. {why}"
            )
