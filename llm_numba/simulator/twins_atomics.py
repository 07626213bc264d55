"""Twins of `cuda.atomic`.

A NaN makes ``max`` and ``min`` do nothing: neither does it go into memory, nor does a number
replace it there. ``nanmax`` and ``nanmin`` do replace it. Source: the loops around ``atom.cas``
that numba-cuda writes for floats (``nvvmutils.py``).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from llm_numba.simulator.atomics import Update
from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.memory import View
from llm_numba.simulator.twins import twin


def _larger(old: Any, new: Any) -> Any:
    return np.where(new > old, new, old)


def _smaller(old: Any, new: Any) -> Any:
    return np.where(new < old, new, old)


def _larger_number(old: Any, new: Any) -> Any:
    return np.where((new > old) | (np.isnan(old) & ~np.isnan(new)), new, old)


def _smaller_number(old: Any, new: Any) -> Any:
    return np.where((new < old) | (np.isnan(old) & ~np.isnan(new)), new, old)


def _increment(old: Any, limit: Any) -> Any:
    return np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1))


def _decrement(old: Any, limit: Any) -> Any:
    return np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1))


def _one_by_one(step: Callable[[Any, Any], Any], ufunc: np.ufunc) -> Update:
    """Return an update of floats that differs from a ufunc only where a NaN is."""

    def accumulate(column: np.ndarray) -> np.ndarray:
        if not np.isnan(column).any():
            return ufunc.accumulate(column)
        contents = column.copy()
        for place in range(1, len(column)):
            contents[place] = step(contents[place - 1], column[place])
        return contents

    return Update(step, accumulate)


UPDATES = {
    cuda.atomic.add: Update.of_ufunc(np.add),
    cuda.atomic.sub: Update.of_ufunc(np.subtract),
    cuda.atomic.max: _one_by_one(_larger, np.maximum),
    cuda.atomic.min: _one_by_one(_smaller, np.minimum),
    cuda.atomic.nanmax: _one_by_one(_larger_number, np.maximum),
    cuda.atomic.nanmin: _one_by_one(_smaller_number, np.minimum),
    cuda.atomic.and_: Update.of_ufunc(np.bitwise_and),
    cuda.atomic.or_: Update.of_ufunc(np.bitwise_or),
    cuda.atomic.xor: Update.of_ufunc(np.bitwise_xor),
    cuda.atomic.exch: Update(lambda old, new: new, lambda column: column),
    cuda.atomic.inc: Update(_increment),
    cuda.atomic.dec: Update(_decrement),
}
_SWAP = Update(lambda old, expected, new: np.where(old == expected, new, old))


def _updating(update: Update) -> Callable[..., Any]:
    def function(lanes: Lanes, array: View, index: Any, value: Any) -> Any:
        return lanes.atomic(array, index, update, value)

    return function


for _operation, _update in UPDATES.items():
    twin(_operation, loads=True)(_updating(_update))


@twin(cuda.atomic.cas, loads=True)
def _cas(lanes: Lanes, array: View, index: Any, expected: Any, new: Any) -> Any:
    return lanes.atomic(array, index, _SWAP, expected, new)


@twin(cuda.atomic.compare_and_swap, loads=True)
def _compare_and_swap(lanes: Lanes, array: View, expected: Any, new: Any) -> Any:
    return lanes.atomic(array, np.int64(0), _SWAP, expected, new)
