"""What a measurement of a ladder is: a shape, a storage format, and the PyTorch that does the same.

The measurements themselves stand in ``points.py`` and its neighbours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_numba.kernels.ladder import Ladder, Operands

# Takes the module torch and the operands as tensors, and returns `out`, or outputs by name.
Eager = Callable[[Any, dict[str, Any]], Any]

_RANDOM_ROWS = 1024
ABSENT = object()  # an operand of the ladder that a point does without


@dataclass(frozen=True)
class Point:
    """A ladder at one shape and dtype.

    Attributes
    ----------
    name : str
        ``"softmax/bfloat16"``.
    ladder : Ladder
    shape : tuple of int
    dtype : str
    steps : tuple of str
        Empty for all.
    changes : dict
        Operands that differ from the ladder's own.
    expect : callable or None
        In place of the ladder's own.
    bytes_of : callable or None
        In place of the ladder's ``fewest_bytes``.
    by_rows : tuple of str
        Operands of which some rows say all about those rows of the outputs: a float64 reference of
        the whole would take minutes. Empty where it is cheap.
    kept : tuple of str
        Outputs of which most is input as well, such as a cache that a row is written to: they are
        checked, and not poisoned before.
    make : callable or None
        Makes the operands, in place of the ladder's own; see :func:`repeated`.
    eager : callable or None
        The same in PyTorch, as people write it.
    eager_code : str
        How it reads.
    prepare : callable or None
        ``prepare(torch, tensors)`` returns the operands as PyTorch wants them; it is not timed.
    compiled : bool
        Whether torch.compile runs as well. It makes nothing of a single call of a library.
    """

    name: str
    ladder: Ladder
    shape: tuple[int, ...]
    dtype: str
    steps: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    expect: Callable[..., dict[str, np.ndarray]] | None = None
    bytes_of: Callable[[tuple[int, ...], int], int] | None = None
    by_rows: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    make: Callable[..., Operands] | None = None
    eager: Eager | None = None
    eager_code: str = ""
    prepare: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None
    compiled: bool = False

    @property
    def chosen(self) -> list[Any]:
        """The steps to run."""
        return [step for step in self.ladder.steps if not self.steps or step.name in self.steps]

    @property
    def fewest_bytes(self) -> int:
        """Bytes that must cross global memory."""
        count = self.bytes_of or self.ladder.fewest_bytes
        return count(self.shape, np.dtype(self.dtype).itemsize)

    def operands(self, seed: int = 0) -> Operands:
        """Make the operands, NumPy arrays and numbers."""
        make = self.make or self.ladder.operands
        made = make(self.shape, np.dtype(self.dtype), seed) | self.changes
        return {name: value for name, value in made.items() if value is not ABSENT}

    def expected(self, operands: Operands, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the outputs in float64, or some rows of them."""
        some = {
            name: value[rows] if name in self.by_rows else value for name, value in operands.items()
        }
        return (self.expect or self.ladder.expect)(**some)


def repeated(ladder: Ladder, names: tuple[str, ...], axis: int = 0) -> Callable[..., Operands]:
    """Return what makes a ladder's operands out of some random rows that repeat.

    Making random numbers for hundreds of megabytes takes longer than running the kernels.

    Parameters
    ----------
    ladder : Ladder
    names : tuple of str
        Operands whose first axis is the one that is made shorter.
    axis : int
        Which of the shape's axes that is.
    """

    def make(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
        few = (*shape[:axis], min(shape[axis], _RANDOM_ROWS), *shape[axis + 1 :])
        made = ladder.operands(few, dtype, seed)
        longer = {
            name: np.resize(made[name], (shape[axis], *made[name].shape[1:])) for name in names
        }
        return made | longer

    return make


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    r"""Return :math:`\|found - expected\| / \|expected\|`, in float64; NaN if there is one.

    Parameters
    ----------
    found, expected : ndarray
        Of one shape.
    """
    far = np.linalg.norm(found.astype(np.float64).ravel() - expected.ravel())
    return float(far / max(float(np.linalg.norm(expected.ravel())), math.ulp(0.0)))


def allowed_error(output: np.ndarray, terms: int) -> float:
    """Return the relative error that rounding explains.

    Storage rounds each number once, by half a unit in the last place at most. Sums of float32 are
    off by about the square root of their terms in units in the last place; each bound is twice
    that, so that luck is not needed.

    Parameters
    ----------
    output : ndarray
        Its dtype is what is stored.
    terms : int
        Of the longest sum.
    """
    if output.dtype.kind in "iu":
        return 0.0
    storage = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
    return 2 * (storage[output.dtype.name] + math.sqrt(terms) * 2.0**-24)
