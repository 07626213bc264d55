"""A planted fault: a kernel with a student's mistake, and the same kernel put right."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes
    ----------
    name : str
        The mistake in a few words.
    wrong, right : dispatchers
        The faulty kernel, its fault's lines marked by a comment; and the corrected one.
    args : callable
        Makes fresh arguments, the output last.
    want : callable
        Takes fresh arguments and returns what the right kernel leaves in the output.
    grid, block, shared_bytes
        How both are launched.
    threads : iterable of int
        The threads that may be blamed, numbered through the grid.
    """

    name: str
    wrong: Any
    right: Any
    args: Callable[[], tuple[Any, ...]]
    want: Callable[..., np.ndarray]
    block: int | tuple[int, ...] = 32
    grid: int | tuple[int, ...] = 1
    shared_bytes: int = 0
    threads: range | tuple[int, ...] = range(32)


def ramp(n: int) -> np.ndarray:
    """Small whole numbers, exact in any order of summation: 1, 2, 3, ..."""
    return np.arange(1, n + 1, dtype=np.float32)


def zeros(*shape: int) -> np.ndarray:
    """An output that is wrong unless it is written."""
    return np.full(shape, -1, np.float32)
