"""Atomic updates of many threads, cell by cell or round by round.

Threads that update one memory cell do so one after the other, and each gets what the one before
left. All of them together are computed either with one pass over each cell's threads, or with one
round for the first thread of every cell, one for the second, and so on: whichever is shorter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Update:
    """An atomic operation.

    Attributes
    ----------
    step : callable
        Elementwise ``step(old, *operands)``: what a cell holds after one thread.
    accumulate : callable or None
        What a cell holds after 0, 1, 2, ... threads, from its content followed by their operands,
        as :meth:`numpy.ufunc.accumulate` does.
    """

    step: Callable[..., Any]
    accumulate: Callable[[np.ndarray], np.ndarray] | None = None

    @classmethod
    def of_ufunc(cls, ufunc: np.ufunc) -> "Update":
        """Return the update that a function of two numbers makes."""
        return cls(ufunc, ufunc.accumulate)


def apply_in_order(
    memory: np.ndarray,
    places: np.ndarray,
    operands: tuple[np.ndarray, ...],
    update: Update,
    order: np.ndarray,
) -> np.ndarray:
    """Let threads update memory one after the other.

    Parameters
    ----------
    memory : array
        Changed in place.
    places : int [n]
        Each thread's cell.
    operands : tuple of array [n]
        Of the memory's dtype.
    update : Update
    order : int [n]
        Who comes first, second, ...

    Returns
    -------
    array [n]
        What each thread found.
    """
    found = np.empty(len(places), memory.dtype)
    sequence = order[np.argsort(places[order], kind="stable")]
    cells = places[sequence]
    starts = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    counts = np.diff(np.append(starts, len(cells)))
    if update.accumulate is not None and len(starts) <= counts.max():
        for cell, threads in zip(cells[starts], np.split(sequence, starts[1:]), strict=True):
            contents = update.accumulate(np.append(memory[cell], operands[0][threads]))
            contents = contents.astype(memory.dtype)  # NumPy sums narrow integers in wide ones
            found[threads] = contents[:-1]
            memory[cell] = contents[-1]
        return found
    rank = np.arange(len(cells)) - np.repeat(starts, counts)
    by_rank = sequence[np.argsort(rank, kind="stable")]
    for threads in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]):
        where = places[threads]
        found[threads] = memory[where]
        memory[where] = update.step(found[threads], *(operand[threads] for operand in operands))
    return found
