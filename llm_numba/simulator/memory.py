"""Memory: buffers of bytes, and views of them as arrays.

====================  =================================================
space                 one instance for
====================  =================================================
global, constant      the launch: the caller's own NumPy memory
shared                each block of threads
local                 each thread, element by element side by side
====================  =================================================
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from llm_numba.simulator.errors import UnsupportedError
from llm_numba.simulator.values import join, take


def owner_of(array: np.ndarray) -> np.ndarray:
    """Return the array whose memory a view shares."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Buffer:
    """A piece of memory that several views may share.

    Parameters
    ----------
    space : {"global", "constant", "shared", "local"}
    data : uint8 [instances * stride] or, for local memory, of the array's dtype
    stride : int
        Bytes of one instance; of local memory, where threads stand side by side, of one element.
    """

    def __init__(self, space: str, data: np.ndarray, stride: int) -> None:
        self.space = space
        self.data = data
        self.stride = stride
        # A byte is all ones once somebody wrote it; None where everything counts as written.
        self.written: np.ndarray | None = None
        self.shadow: Any = None
        self.granule = 0
        self._typed: dict[np.dtype, np.ndarray] = {}
        self._marks: dict[int, np.ndarray] = {}

    @classmethod
    def of_host(cls, array: np.ndarray, space: str = "global") -> "Buffer":
        """Return the memory that a NumPy array lies in, the whole of its allocation."""
        owner = owner_of(array)
        low, high = byte_bounds(owner)
        if high == low:
            return cls(space, np.empty(0, np.uint8), 0)
        memory = (ctypes.c_uint8 * (high - low)).from_address(low)
        buffer = cls(space, np.frombuffer(memory, np.uint8), high - low)
        buffer.low = low
        buffer.owner = owner  # keeps the memory alive
        return buffer

    def typed(self, dtype: np.dtype) -> np.ndarray:
        """Return all of the memory as elements of a dtype."""
        if self.space == "local" and dtype == self.data.dtype:
            return self.data
        if dtype not in self._typed:
            if self.space == "local" and self.stride % dtype.itemsize:
                raise UnsupportedError(
                    f"A local array of {self.data.dtype} is viewed as {dtype}.",
                    "Declare the local array in the type that you use.",
                )
            whole = self.data.size - self.data.size % dtype.itemsize
            self._typed[dtype] = self.data[:whole].view(dtype)
        return self._typed[dtype]

    def marks(self, size: int) -> np.ndarray:
        """Return the marks of written bytes, as unsigned integers of some bytes each."""
        if size not in self._marks:
            assert self.written is not None
            whole = self.written.size - self.written.size % size
            self._marks[size] = self.written[:whole].view(f"u{size}")
        return self._marks[size]


class View:
    """An array as a kernel sees it.

    Attributes
    ----------
    buffer : Buffer
    offset : int64 or int64 [n]
        Byte offset of the first element; it may differ from thread to thread.
    shape, strides : tuple of int64
        Elements and bytes along each axis.
    dtype : dtype
        Of the elements in memory.
    name : str
        The variable, for messages.
    """

    __slots__ = ("buffer", "dtype", "name", "offset", "shape", "strides")

    def __init__(
        self,
        buffer: Buffer,
        offset: Any,
        shape: Any,
        strides: Any,
        dtype: np.dtype,
        name: str = "an array",
    ) -> None:
        self.buffer = buffer
        self.name = name
        self.offset = offset
        self.shape = shape
        self.strides = strides
        self.dtype = dtype

    @classmethod
    def of_host(cls, array: np.ndarray, buffer: Buffer, name: str) -> "View":
        """Return the view of a NumPy array in its buffer."""
        offset = array.__array_interface__["data"][0] - buffer.low if array.size else 0
        if offset % array.itemsize or any(step % array.itemsize for step in array.strides):
            raise UnsupportedError(
                f"An array of {array.dtype} is not aligned to its elements.", "Copy it first."
            )
        shape = tuple(np.int64(extent) for extent in array.shape)
        strides = tuple(np.int64(step) for step in array.strides)
        return cls(buffer, np.int64(offset), shape, strides, array.dtype, name)

    @classmethod
    def dense(
        cls, buffer: Buffer, offset: int, shape: tuple[int, ...], dtype: np.dtype, name: str
    ) -> "View":
        """Return a view in row-major order."""
        strides, step = [], dtype.itemsize
        for extent in reversed(shape):
            strides.insert(0, np.int64(step))
            step *= extent
        extents = tuple(map(np.int64, shape))
        return cls(buffer, np.int64(offset), extents, tuple(strides), dtype, name)

    @property
    def ndim(self) -> np.int64:
        """Number of axes."""
        return np.int64(len(self.shape))

    @property
    def size(self) -> Any:
        """Number of elements."""
        size = np.int64(1)
        for extent in self.shape:
            size = size * extent
        return size

    @property
    def itemsize(self) -> np.int64:
        """Bytes of an element."""
        return np.int64(self.dtype.itemsize)

    @property
    def nbytes(self) -> Any:
        """Bytes of all elements."""
        return self.size * self.itemsize

    def take_threads(self, chosen: np.ndarray) -> "View":
        """Keep the entries of some threads."""
        if not isinstance(self.offset, np.ndarray):
            return self
        return self._with(take(self.offset, chosen), self.shape, self.strides)

    def join_threads(
        self, views: Sequence["View | None"], counts: Sequence[int], order: np.ndarray
    ) -> "View":
        """Put the views that several groups of threads hold into one."""
        views = [self if view is None else view for view in views]
        if any(
            view.buffer is not self.buffer
            or view.dtype != self.dtype
            or view.shape != self.shape
            or view.strides != self.strides
            for view in views
        ):
            raise UnsupportedError(
                "Threads of one block hold different arrays in one variable.",
                "Choose the element, not the array, by the condition.",
            )
        offset = join([view.offset for view in views], counts, order)
        return self._with(offset, self.shape, self.strides)

    def _with(self, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None) -> "View":
        return View(self.buffer, offset, shape, strides, dtype or self.dtype, self.name)

    def locate(self, lanes: Any, index: Any) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """Apply an index.

        Returns
        -------
        offset : int64 or int64 [n]
            In bytes.
        shape, strides : tuple
            Of the axes that remain.
        """
        if not isinstance(index, tuple):
            index = (index,)
        if len(index) < len(self.shape) or any(each is Ellipsis for each in index):
            index = _fill(index, len(self.shape))
        offset = self.offset
        shape, strides = [], []
        for axis, (each, extent, step) in enumerate(
            zip(index, self.shape, self.strides, strict=True)
        ):
            if isinstance(each, slice):
                start, length, stride = _clip(each, extent)
                offset = offset + start * step
                shape.append(length)
                strides.append(step * stride)
            else:
                offset = offset + self.check(lanes, each, extent, axis) * step
        return offset, tuple(shape), tuple(strides)

    def check(self, lanes: Any, index: Any, extent: Any, axis: int) -> Any:
        """Hold an index to its axis; a negative one counts from the end, as in Numba."""
        if index.dtype.kind == "u":
            index = index.astype(np.int64)
        if isinstance(index, np.ndarray) or isinstance(extent, np.ndarray):
            if not (index.view(np.uint64) >= extent).any():
                return index
            outside = (index < -extent) | (index >= extent)
            if outside.any():
                lanes.machine.out_of_bounds(lanes, self, outside, index, extent, axis)
            return np.where(index < 0, index + extent, index)
        if 0 <= index < extent:
            return index
        if -extent <= index < 0:
            return index + extent
        everyone = np.ones(lanes.n, bool)
        lanes.machine.out_of_bounds(lanes, self, everyone, index, extent, axis)
        return None

    def part(self, lanes: Any, index: Any) -> "View":
        """Return a row, a slice, or a record."""
        return self._with(*self.locate(lanes, index))

    def field(self, name: str) -> "View":
        """Return a field of a record, or the real or imaginary part."""
        if self.dtype.kind == "c":
            half = np.dtype(f"f{self.dtype.itemsize // 2}")
            offset = self.offset + (half.itemsize if name == "imag" else 0)
            return self._with(offset, self.shape, self.strides, half)
        dtype, start = self.dtype.fields[name][:2]
        size = dtype.base.itemsize
        if dtype.base.names is None and (start % size or self.dtype.itemsize % size):
            raise UnsupportedError(
                f"The field {name!r} of {self.name} is not aligned to its {size} bytes.",
                "Make the dtype with numpy.dtype(..., align=True).",
            )
        base = View.dense(self.buffer, 0, dtype.shape, dtype.base, self.name)
        shape, strides = self.shape + base.shape, self.strides + base.strides
        return self._with(self.offset + start, shape, strides, dtype.base)

    def transposed(self) -> "View":
        """Return the view with its axes reversed."""
        return self._with(self.offset, self.shape[::-1], self.strides[::-1])

    def transpose(self, *axes: Any) -> "View":
        """Return the view with its axes reversed, or in the given order."""
        if not axes:
            return self.transposed()
        order = [int(axis) for axis in (axes[0] if isinstance(axes[0], tuple) else axes)]
        shape, strides = ([part[axis] for axis in order] for part in (self.shape, self.strides))
        return self._with(self.offset, tuple(shape), tuple(strides))

    def view(self, dtype: np.dtype) -> "View":
        """Return the same bytes as elements of another dtype."""
        ratio = self.dtype.itemsize / dtype.itemsize
        shape = (*self.shape[:-1], np.int64(self.shape[-1] * ratio))
        strides = (*self.strides[:-1], np.int64(dtype.itemsize))
        return self._with(self.offset, shape, strides, dtype)

    def reshape(self, *shape: Any) -> "View":
        """Return the same elements in another shape."""
        wanted = [int(extent) for extent in (shape[0] if isinstance(shape[0], tuple) else shape)]
        if -1 in wanted:
            known = int(np.prod([extent for extent in wanted if extent >= 0]))
            wanted[wanted.index(-1)] = int(self.size) // max(known, 1)
        dense = View.dense(self.buffer, 0, tuple(wanted), self.dtype, self.name)
        return self._with(self.offset, dense.shape, dense.strides)

    def ravel(self) -> "View":
        """Return the elements along one axis."""
        return self.reshape(self.size)


def _fill(index: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    missing = (slice(None),) * (ndim - sum(each is not Ellipsis for each in index))
    for place, each in enumerate(index):
        if each is Ellipsis:
            return (*index[:place], *missing, *index[place + 1 :])
    return (*index, *missing)


def _clip(part: slice, extent: Any) -> tuple[Any, Any, Any]:
    """Return start, length and step of a slice, held to an axis."""
    step = np.int64(1) if part.step is None else np.int64(part.step)
    # Going down, a slice may end before the first element, at -1.
    lowest, highest = (0, extent) if step > 0 else (-1, extent - 1)
    first, last = (lowest, highest) if step > 0 else (highest, lowest)
    start, stop = (
        default if place is None else np.clip(np.where(place < 0, place + extent, place), *bounds)
        for place, default, bounds in (
            (part.start, first, (lowest, highest)),
            (part.stop, last, (lowest, highest)),
        )
    )
    length = np.maximum(0, (stop - start + step - np.sign(step)) // step)
    return np.asarray(start)[()], np.asarray(length)[()], step
