"""How long each part of a benchmark may take, and what there was no time for.

Some parts cannot tell beforehand how long they take: a peer that compiles, a thousand steps. So
each has an end, a share of the limit behind that of the part before it. What one leaves over goes
to those behind it. What is left out is written down, for a record that lacks a figure should say
why.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from llm_numba.bench.record import Result

_TIME_IS_UP = "its time was up"


class Budget:
    """Ends of the parts of a benchmark.

    Parameters
    ----------
    limit_seconds : float
        From now on, for all parts.
    shares : mapping of str to float
        What each part may take, in relation to the others, in the order in which they run.
    clock : callable
        In seconds.

    Attributes
    ----------
    left_out : dict of str to str
        What was not measured, and why.
    """

    def __init__(
        self,
        limit_seconds: float,
        shares: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        begin, whole = clock(), sum(shares.values())
        self._ends = {
            part: begin + limit_seconds * share / whole
            for part, share in zip(shares, itertools.accumulate(shares.values()), strict=True)
        }
        self._end = begin + limit_seconds
        self._any_result = False
        self.left_out: dict[str, str] = {}

    def seconds_left(self, part: str | None = None) -> float:
        """Return how long it is until a part must end; until all must, if none is named.

        Parameters
        ----------
        part : str, optional
        """
        end = self._end if part is None else self._ends[part]
        return max(0.0, end - self._clock())

    def allows(self, name: str, part: str | None = None) -> bool:
        """Whether something may begin, or go on; if not, it is noted as left out.

        Parameters
        ----------
        name : str
            Of what would be measured.
        part : str, optional
            To which it belongs; if none is named, it may take the time of all.
        """
        if self.seconds_left(part) > 0:
            return True
        self.left_out[name] = _TIME_IS_UP
        return False

    def results(self, part: str, measured: Iterable[Result]) -> Iterator[Result]:
        """Run a part. Should it fail, it is noted as left out, and what others measured stays.

        Parameters
        ----------
        part : str
        measured : iterable of Result

        Yields
        ------
        Result

        Raises
        ------
        Exception
            The part's, if no part before it has measured anything.
        """
        try:
            for result in measured:
                self._any_result = True
                yield result
        except Exception as failure:
            if not self._any_result:
                raise
            self.left_out[part] = f"{type(failure).__name__}: {failure}"
