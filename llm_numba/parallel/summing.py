"""Adding up the arrays of several ranks, always in the same order."""

from collections.abc import Iterable
from typing import Literal

import ml_dtypes
import numpy as np

Reduction = Literal["sum", "max"]

_SHORT = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}


def combine(parts: Iterable[np.ndarray], op: Reduction = "sum") -> np.ndarray:
    """Add up arrays, or take their largest elements, from the first to the last.

    Parameters
    ----------
    parts : iterable of ndarray
        Of one shape and dtype, in the order of ranks; at least one.
    op : {"sum", "max"}

    Returns
    -------
    ndarray
        A new one, of the same shape and dtype. Numbers of 16 bits were added in float32 and
        rounded once: P roundings to 8 bits would cost more than the model's own. Integers wrap
        around, NaN stays NaN.
    """
    parts = iter(parts)
    first = next(parts)
    total = first.astype(np.float32 if first.dtype in _SHORT else first.dtype)
    join = np.add if op == "sum" else np.maximum
    for part in parts:
        join(total, part, out=total)
    return total.astype(first.dtype, copy=False)
