"""When each stage of a pipeline computed which step, and how much of the time it stood idle."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_numba.runtime.moments import Moment


@dataclass(frozen=True)
class Stretch:
    """The time in which a stage computed a step.

    Attributes
    ----------
    stage : int
    step : int
        Counted from 0 since the stage began.
    num_tokens : int
        N, of the step.
    begin, end : float
        Seconds on the clock of ``time.monotonic``, which the processes of a host have in common:
        from when all inputs were there until all results were on their way. On a GPU, until it was
        through with the kernels.
    """

    stage: int
    step: int
    num_tokens: int
    begin: float
    end: float


@dataclass(frozen=True)
class Noted:
    """A stretch that may not be over, or not even have begun: a GPU is behind its host.

    Attributes
    ----------
    stage, step, num_tokens : int
        As of :class:`Stretch`.
    begin, end : Moment
        See :func:`llm_numba.runtime.moments.note_moment`.
    """

    stage: int
    step: int
    num_tokens: int
    begin: Moment
    end: Moment

    def stretch(self) -> Stretch:
        """Return what became of it; waits until it is over."""
        return Stretch(self.stage, self.step, self.num_tokens, self.begin(), self.end())


def bubble_of(stretches: Sequence[Stretch], num_stages: int) -> float:
    """Return the part of all stages' time in which they did not compute.

    Parameters
    ----------
    stretches : sequence of Stretch
        Of all stages, at least one.
    num_stages : int
        R.

    Returns
    -------
    float
        From 0 to 1, from the first beginning to the last end.
    """
    span = max(each.end for each in stretches) - min(each.begin for each in stretches)
    busy = sum(each.end - each.begin for each in stretches)
    return 1 - busy / (num_stages * span)


def ideal_bubble(num_pieces: int, num_stages: int) -> float:
    """Return the bubble of M equal micro-batches on R equal stages: (R - 1) / (M + R - 1).

    Parameters
    ----------
    num_pieces, num_stages : int
        M, R.

    Notes
    -----
    Huang et al., "GPipe", 2019, section 2.3.
    """
    return (num_stages - 1) / (num_pieces + num_stages - 1)
