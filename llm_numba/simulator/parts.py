"""Assigning to a part of an array, ``a[i, 1:3] = b``, and to a whole record."""

from typing import Any

import numpy as np

from llm_numba.simulator.arithmetic import NAMESPACE
from llm_numba.simulator.errors import UnsupportedError
from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.memory import View


def assign_part(lanes: Lanes, target: View, value: Any) -> None:
    """Write a number, or the elements of an array, to each element of a part.

    Parameters
    ----------
    lanes : Lanes
    target : View
        The part; its extents are the same for all threads.
    value : register or View
        An array has the trailing axes of the part, or axes of length 1 there.
    """
    for place in np.ndindex(*_extents(target)):
        index = tuple(map(np.int64, place))
        lanes.store(target, index, _element(lanes, value, index))


def _extents(view: View) -> list[int]:
    if any(isinstance(extent, np.ndarray) for extent in view.shape):
        raise UnsupportedError(
            f"Threads assign to parts of {view.name} that have different lengths.",
            "Write it as a loop over the elements.",
        )
    return [int(extent) for extent in view.shape]


def _element(lanes: Lanes, value: Any, index: tuple[Any, ...]) -> Any:
    if not isinstance(value, View):
        return value
    extents = _extents(value)
    trailing = index[len(index) - len(extents) :]
    return lanes.load(
        value,
        tuple(
            place if extent > 1 else np.int64(0)
            for place, extent in zip(trailing, extents, strict=True)
        ),
    )


def copy_record(lanes: Lanes, target: View, source: View) -> None:
    """Copy a record field by field."""
    for name in target.dtype.names:
        copy = copy_record if target.field(name).dtype.names else assign_part
        copy(lanes, target.field(name), source.field(name))


NAMESPACE |= {"assign_part": assign_part, "copy_record": copy_record}
