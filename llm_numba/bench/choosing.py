"""``--only``: the points of a benchmark that somebody asks for, by patterns."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from typing import TypeVar

from llm_numba.errors import LLMNumbaError

T = TypeVar("T")


def chosen(
    only: Sequence[str], points: Iterable[T], names: Callable[[T], Iterable[str]], choices: str
) -> list[T]:
    """Return the points that are asked for, in the order in which they stand.

    Parameters
    ----------
    only : sequence of str
        Patterns, as of a shell; none asks for all.
    points : iterable
    names : callable
        The names that a point answers to.
    choices : str
        What the error offers.

    Raises
    ------
    LLMNumbaError
        If a pattern names nothing.
    """
    points = list(points)

    def is_named(pattern: str, point: T) -> bool:
        return any(fnmatch(name, pattern) for name in names(point))

    for pattern in only:
        if not any(is_named(pattern, point) for point in points):
            raise LLMNumbaError(f"--only {pattern} names nothing.", f"Choose {choices}.")
    return [p for p in points if not only or any(is_named(pattern, p) for pattern in only)]
