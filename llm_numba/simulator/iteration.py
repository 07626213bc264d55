"""Loops: ``range`` and sequences as values that a step replaces by the next."""

from typing import Any, NamedTuple

import numpy as np

from llm_numba.simulator.arithmetic import NAMESPACE
from llm_numba.simulator.memory import View
from llm_numba.simulator.values import Range


class Sequence(NamedTuple):
    """The state of a ``for`` loop over a tuple or an array."""

    items: Any
    place: Any


def make_range(*limits: Any) -> Range:
    """Return the state before the first round of ``for _ in range(*limits)``."""
    start, stop, step = np.int64(0), limits[0], np.int64(1)
    if len(limits) > 1:
        start, stop = limits[:2]
    if len(limits) > 2:
        step = limits[2]
    towards = np.where(step > 0, step - 1, step + 1)
    count = np.maximum((stop - start + towards) // step, 0)
    return Range(start, step, count if np.ndim(count) else count[()])


def sequence(items: Any) -> Sequence:
    """Return the state before the first round of ``for _ in items``."""
    return Sequence(items, np.int64(0))


def peek(lanes: Any, state: Any) -> tuple[Any, Any]:
    """Return the next value and whether there is one."""
    if isinstance(state, Range):
        return state.value, state.count > 0
    items, place = state
    length = items.shape[0] if isinstance(items, View) else np.int64(len(items))
    there = place < length
    if not np.any(there):
        return pick_any(items), there
    place = np.minimum(place, length - 1)
    return (lanes.load(items, place) if isinstance(items, View) else pick(items, place)), there


def pick_any(items: Any) -> Any:
    """Return some value of the right type, of which nobody will look at the worth."""
    if isinstance(items, View):
        return np.zeros((), items.dtype)[()]
    return items[0] if items else np.int64(0)


def advance(state: Any) -> Any:
    """Return the state after a round."""
    if isinstance(state, Range):
        return Range(state.value + state.step, state.step, state.count - 1)
    return Sequence(state.items, state.place + 1)


def pick(items: tuple[Any, ...], place: Any) -> Any:
    """Return the entry of a tuple at a place that may differ from thread to thread."""
    if not isinstance(place, np.ndarray):
        return items[int(place)]
    columns = [np.broadcast_to(item, place.shape) for item in items]
    return np.stack(columns)[place, np.arange(len(place))]


NAMESPACE |= {
    "make_range": make_range,
    "sequence": sequence,
    "peek": peek,
    "advance": advance,
    "pick": pick,
}
