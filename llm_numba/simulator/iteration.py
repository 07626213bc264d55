"""Loops: ``range``, sequences and ``enumerate`` as values that a step replaces by the next."""

from typing import Any, NamedTuple

import numpy as np

from llm_numba.simulator.arithmetic import NAMESPACE
from llm_numba.simulator.memory import View
from llm_numba.simulator.values import Range, widen


class Sequence(NamedTuple):
    """The state of a ``for`` loop over a tuple or an array."""

    items: Any
    place: Any


class Enumerated(NamedTuple):
    """The state of a loop over ``enumerate``."""

    inner: Any
    count: Any


class Zipped(NamedTuple):
    """The state of a loop over ``zip``."""

    inner: tuple[Any, ...]


class Indices(NamedTuple):
    """The state of a loop over ``numpy.ndindex``, or ``ndenumerate`` with an array."""

    shape: tuple[Any, ...]
    place: Any
    array: Any = None


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


def iterate(items: Any) -> Any:
    """Return the state before the first round of ``for _ in items``."""
    if isinstance(items, Range | Sequence | Enumerated | Zipped | Indices):
        return items
    return Sequence(items, np.int64(0))


def enumerated(items: Any, start: Any) -> Enumerated:
    """Return the state before the first round of a loop over ``enumerate``."""
    return Enumerated(iterate(items), start)


def zipped(*several: Any) -> Zipped:
    """Return the state before the first round of a loop over ``zip``."""
    return Zipped(tuple(map(iterate, several)))


def indices(*shape: Any) -> Indices:
    """Return the state before the first round of a loop over ``numpy.ndindex``."""
    nested = len(shape) == 1 and isinstance(shape[0], tuple)
    return Indices(tuple(shape[0] if nested else shape), np.int64(0))


def index_pairs(array: View) -> Indices:
    """Return the state before the first round of a loop over ``numpy.ndenumerate``."""
    return Indices(array.shape, np.int64(0), array)


def peek(lanes: Any, state: Any) -> tuple[Any, Any]:
    """Return the next value and whether there is one."""
    if isinstance(state, Range):
        return state.value, state.count > 0
    if isinstance(state, Enumerated):
        value, there = peek(lanes, state.inner)
        return (state.count, value), there
    if isinstance(state, Zipped):
        values, left = zip(*(peek(lanes, each) for each in state.inner), strict=True)
        return values, np.logical_and.reduce(np.broadcast_arrays(*left))[()]
    if isinstance(state, Indices):
        return _peek_index(lanes, state)
    items, place = state
    length = items.shape[0] if isinstance(items, View) else np.int64(len(items))
    there = place < length
    if not np.any(there):
        return _any_of(items), there
    place = np.minimum(place, length - 1)
    if not isinstance(items, View):
        return pick(items, place), there
    whole = len(items.shape) > 1 or items.dtype.names is not None
    return (items.part(lanes, place) if whole else lanes.load(items, place)), there


def _peek_index(lanes: Any, state: Indices) -> tuple[Any, Any]:
    size = np.int64(1)
    for extent in state.shape:
        size = size * extent
    there = state.place < size
    rest = np.minimum(state.place, np.maximum(size - 1, 0))
    coordinates: tuple[Any, ...] = ()
    for extent in reversed(state.shape):
        rest, place = np.divmod(rest, np.maximum(extent, 1))
        coordinates = (place, *coordinates)
    if state.array is None:
        return coordinates, there
    value = lanes.load(state.array, coordinates) if np.any(there) else _any_of(state.array)
    return (coordinates, value), there


def _any_of(items: Any) -> Any:
    """Return some value of the right type, of which nobody will look at the worth."""
    if not isinstance(items, View):
        return items[0] if items else np.int64(0)
    if len(items.shape) > 1 or items.dtype.names is not None:
        rest = items.shape[1:], items.strides[1:]
        return View(items.buffer, items.offset, *rest, items.dtype, items.name)
    return widen(np.zeros((), items.dtype)[()])


def advance(state: Any) -> Any:
    """Return the state after a round."""
    if isinstance(state, Range):
        return Range(state.value + state.step, state.step, state.count - 1)
    if isinstance(state, Enumerated):
        return Enumerated(advance(state.inner), state.count + 1)
    if isinstance(state, Zipped):
        return Zipped(tuple(map(advance, state.inner)))
    return state._replace(place=state.place + 1)


def pick(items: tuple[Any, ...], place: Any) -> Any:
    """Return the entry of a tuple at a place that may differ from thread to thread."""
    if not isinstance(place, np.ndarray):
        return items[int(place)]
    columns = [np.broadcast_to(item, place.shape) for item in items]
    return np.stack(columns)[place, np.arange(len(place))]


NAMESPACE |= {
    "make_range": make_range,
    "iterate": iterate,
    "enumerated": enumerated,
    "zipped": zipped,
    "indices": indices,
    "index_pairs": index_pairs,
    "peek": peek,
    "advance": advance,
    "pick": pick,
}
