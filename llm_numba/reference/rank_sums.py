"""Adding up the arrays of several ranks, always in the same order."""

from typing import Literal

import ml_dtypes
import numpy as np

Reduction = Literal["sum", "max"]

_SHORT = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}


def combine_parts(parts: np.ndarray, op: Reduction = "sum") -> np.ndarray:
    """Add up arrays, or take their largest numbers, from the first to the last.

    Parameters
    ----------
    parts : number [P, ...]
        An array of each rank, in the order in which they are added.
    op : {"sum", "max"}

    Returns
    -------
    as parts [...]
        Numbers of 16 bits were added in float32 and rounded once: P roundings to 8 bits would cost
        more than the model's own. Integers wrap around, NaN stays NaN.
    """
    join = np.add if op == "sum" else np.maximum
    wide = np.float32 if parts.dtype in _SHORT else parts.dtype
    total = parts[0].astype(wide)
    for part in parts[1:]:
        join(total, part, out=total)
    return total.astype(parts.dtype, copy=False)
