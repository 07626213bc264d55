"""Operations that were done before: the same launches, with other arrays.

Before an operation's kernels can be queued, the host checks the operands, chooses kernels, cuts
grids, and lays arguments out. For a short prompt that takes longer than the kernels. But all of it
follows from the shapes, formats and alignments of the operands, and from the other arguments; never
from where the arrays lie, nor from what is in them. A model's layers ask for the same thing again
and again, and so do its steps. So an operation is recorded when it is first done: which kernels it
queued, what it allocated, and for each array that a kernel was given, in which operand or new array
it lies, and how far from its beginning. To do it again is then to allocate, to write new addresses
over the old ones, and to queue. Of a tensor map, which holds an address among other numbers, all is
written anew::

    first     operands -> [check, choose, cut] -> allocate -> lay out -> queue      and remember
    then      operands -------- look up --------> allocate -> addresses -> queue

This asks of an operation what :mod:`llm_numba.kernels` keeps to: all that it does to the device is
to allocate with :func:`llm_numba.runtime.empty` and to launch. What cannot be repeated (operands
with gaps, or two that overlap; a stream of its own) is done as if for the first time, always. An
array that is given twice is one operand.
"""

import itertools
import threading
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from typing import Any, NamedTuple

import cupy
import numpy as np

from llm_numba.runtime.arrays import Array, allocate, noting_allocations
from llm_numba.runtime.gpu import noting, stream_handle, use_device
from llm_numba.runtime.launch import intercepted
from llm_numba.runtime.overlap import may_overlap
from llm_numba.runtime.prepared import PreparedLaunch
from llm_numba.runtime.tensor_maps import WORDS, MapForm, TensorMap

# Kernels are chosen by alignment; none asks for more than a fresh array has.
_ALIGNMENT = 256
_MOST_REMEMBERED = 1024


class _Place(NamedTuple):
    """Where an array lies: in which operand or new array, and how many bytes into it."""

    source: int
    offset: int


class _Move(NamedTuple):
    """An address to be written anew, or the words of a tensor map of another matrix."""

    slot: int | slice
    place: _Place
    form: MapForm | None = None


class _View(NamedTuple):
    """A result: a whole array if `shape` is None, else a piece of it."""

    place: _Place
    shape: tuple[int, ...] | None = None
    dtype: np.dtype | None = None
    strides: tuple[int, ...] | None = None


class _UnrepeatableError(Exception):
    """An operation did what cannot be done again with other arrays."""


class Replays:
    """An operation that remembers what it launched.

    Parameters
    ----------
    operation : callable
        Returns an array, a tuple of arrays, or None.
    """

    def __init__(self, operation: Callable[..., Any]) -> None:
        self._operation = operation
        self._known: dict[tuple[Hashable, ...], _Replay] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the operation, or repeat it; arguments, result and errors are the operation's."""
        if intercepted() or kwargs.get("stream") is not None:
            return self._operation(*args, **kwargs)
        operands: list[Array] = []
        numbers: dict[int, int] = {}
        key: list[Hashable] = [use_device(), may_overlap(), *kwargs]
        for value in (*args, *kwargs.values()):
            if not isinstance(value, cupy.ndarray):
                key.append((type(value), value))
                continue
            number = numbers.setdefault(id(value), len(operands))
            if number < len(operands):  # as where a result replaces an operand
                key.append(number)
                continue
            operands.append(value)
            memory = value.data
            aligned = memory.ptr % _ALIGNMENT
            key.append((value.shape, value.strides, value.dtype, aligned, memory.device_id))
        whole = tuple(key)
        try:
            replay = self._known.get(whole)
        except TypeError:  # an argument that cannot be a key
            return self._operation(*args, **kwargs)
        if replay is not None:
            return replay.run(operands)
        return self._record(whole, operands, args, kwargs)

    def _record(
        self, key: tuple[Hashable, ...], operands: list[Array], args: Any, kwargs: Any
    ) -> Any:
        recording = _Recording(operands)
        with recording.running():
            result = self._operation(*args, **kwargs)
        try:
            replay = recording.replay(result)
        except _UnrepeatableError:
            return result
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[key] = replay
        return result


class _Recording:
    """What an operation does to the device."""

    def __init__(self, operands: list[Array]) -> None:
        # All kept to the end: no address stands for two arrays.
        self._arrays = list(operands)
        self._num_operands = len(operands)
        self._launches: list[tuple[PreparedLaunch, tuple[int | None, ...], tuple[Any, ...]]] = []

    def running(self) -> ExitStack:
        """Take note of allocations and launches."""
        stack = ExitStack()
        stack.enter_context(noting_allocations(self._arrays.append))
        stack.enter_context(noting(lambda *launch: self._launches.append(launch)))
        return stack

    def replay(self, result: Any) -> "_Replay":
        """Find out where all arrays came from."""
        operands, new = self._arrays[: self._num_operands], self._arrays[self._num_operands :]
        # What stands in for a missing operand has no elements, and nobody follows its address.
        new = [each for each in new if each.size]
        self._arrays = [*operands, *new]
        if not _are_apart(self._arrays) or not all(a.flags.c_contiguous for a in self._arrays):
            raise _UnrepeatableError
        launches = [
            (
                prepared,
                tuple(
                    self._move(slot, value)
                    for slot, value in zip(slots, args, strict=True)
                    if isinstance(value, TensorMap) or (slot is not None and value.size)
                ),
            )
            for prepared, slots, args in self._launches
        ]
        is_tuple = isinstance(result, tuple)
        views = [self._view(each) for each in (result if is_tuple else (result,))]
        forms = [(each.shape, each.dtype) for each in new]
        return _Replay(launches, forms, views, is_tuple)

    def _move(self, slot: int, value: Array | TensorMap) -> _Move:
        if isinstance(value, TensorMap):
            return _Move(slice(slot, slot + WORDS), self._place(value.matrix), value.form)
        return _Move(slot, self._place(value))

    def _place(self, array: Array) -> _Place:
        address = array.data.ptr
        for source, each in enumerate(self._arrays):
            if 0 <= address - each.data.ptr < each.nbytes:
                return _Place(source, address - each.data.ptr)
        raise _UnrepeatableError

    def _view(self, array: Array | None) -> _View | None:
        if array is None:
            return None
        for source, each in enumerate(self._arrays):
            if each is array:
                return _View(_Place(source, 0))
        return _View(self._place(array), array.shape, array.dtype, array.strides)


def _are_apart(arrays: list[Array]) -> bool:
    ranges = sorted((each.data.ptr, each.nbytes) for each in arrays if each.nbytes)
    return all(begin + size <= after for (begin, size), (after, _) in itertools.pairwise(ranges))


class _Replay:
    """An operation's launches, ready for other arrays."""

    def __init__(
        self,
        launches: list[tuple[PreparedLaunch, tuple[_Move, ...]]],
        new: list[tuple[tuple[int, ...], np.dtype]],
        results: list[_View | None],
        is_tuple: bool,
    ) -> None:
        self._launches, self._new = launches, new
        self._results, self._is_tuple = results, is_tuple
        # Between the writing of addresses and the queueing, nobody else may write.
        self._lock = threading.Lock()

    def run(self, operands: list[Array]) -> Any:
        arrays = [*operands, *(allocate(shape, dtype) for shape, dtype in self._new)]
        begins = [each.data.ptr for each in arrays]
        stream = stream_handle()
        with self._lock:
            for launch, moves in self._launches:
                slots = launch.slots
                for slot, (source, offset), form in moves:
                    begin = begins[source] + offset
                    slots[slot] = begin if form is None else form.words(begin)
                launch.queue(stream)
        results = [each and _array(each, arrays) for each in self._results]
        return tuple(results) if self._is_tuple else results[0]


def _array(view: _View, arrays: list[Array]) -> Array:
    source, offset = view.place
    if view.shape is None:
        return arrays[source]
    memory = arrays[source].data + offset
    return cupy.ndarray(view.shape, view.dtype, memory, view.strides)
