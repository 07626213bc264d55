"""Memory that graphs lend to each other.

What launches into a graph allocate is written each time the graph runs, so nobody else may have
that memory. But graphs that never run at the same time may share it. A pool that hands memory out
to all comers cannot know that; an arena does: whatever works inside it comes from its own slabs, a
piece returns when its array is gone, and the next capture takes the same pieces again. So a hundred
graphs take the memory of the largest.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from llm_numba.runtime.arrays import Array, allocating_by

_ALIGNMENT = 512  # bytes, as CuPy's own pool has it
_SLAB_BYTES = 2**21  # the driver maps memory in pages of 2 MiB

Hole = tuple[int, int]  # begin and end of free memory, addresses


class Arena:
    """Device memory for work that runs one after the other.

    Slabs are never given back while the arena lives: graphs hold their addresses.

    Attributes
    ----------
    num_bytes : int
        Of all slabs.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._slabs: list[Any] = []  # the memory itself, kept from being freed
        self._ranges: list[Hole] = []  # of each slab, all of it
        self._holes: list[list[Hole]] = []  # of each slab
        self._returned: list[tuple[int, int, int]] = []  # pieces that no hole has taken in yet

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Let :func:`llm_numba.runtime.empty` allocate here."""
        with allocating_by(self.empty):
            yield

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """Allocate an array; its memory comes back when nobody holds the array any more.

        Parameters
        ----------
        shape : int or tuple of int
        dtype : dtype-like

        Returns
        -------
        cupy.ndarray
        """
        import cupy

        dtype = np.dtype(dtype)
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        place = self.take(num_bytes)
        return cupy.ndarray(shape, dtype, _pointer(_Piece(self, place), place[1], num_bytes))

    def view(self, array: Array) -> Array:
        """Return an array that does not keep its memory from being handed out again.

        Its contents last until the next work in this arena is queued.

        Parameters
        ----------
        array : cupy.ndarray
            C-contiguous: from :meth:`empty`, or a piece of such a one.

        Returns
        -------
        cupy.ndarray
            `array` itself if its memory is not the arena's.
        """
        import cupy

        if not any(begin <= array.data.ptr < end for begin, end in self._ranges):
            return array
        return cupy.ndarray(array.shape, array.dtype, _pointer(self, array.data.ptr, array.nbytes))

    def take(self, num_bytes: int) -> tuple[int, int, int]:
        """Take a piece from the smallest hole that is large enough, or from a new slab.

        Parameters
        ----------
        num_bytes : int

        Returns
        -------
        slab, begin, end : int
        """
        while self._returned:
            self._widen(*self._returned.pop())
        size = _ALIGNMENT * max(1, math.ceil(num_bytes / _ALIGNMENT))
        fitting = [
            (end - begin, slab, begin)
            for slab, holes in enumerate(self._holes)
            for begin, end in holes
            if end - begin >= size
        ]
        _, slab, begin = min(fitting, default=(0, -1, 0))
        if slab < 0:
            slab, begin = self._grow(size)
        holes = self._holes[slab]
        place = next(i for i, hole in enumerate(holes) if hole[0] == begin)
        rest = (begin + size, holes[place][1])
        holes[place : place + 1] = [rest] if rest[0] < rest[1] else []
        return slab, begin, begin + size

    def give_back(self, slab: int, begin: int, end: int) -> None:
        """Let the next :meth:`take` have a piece.

        Python's garbage collector may drop an array between any two lines, also while a hole is
        looked for. So this changes no hole.

        Parameters
        ----------
        slab, begin, end : int
            As :meth:`take` returned them.
        """
        self._returned.append((slab, begin, end))

    def _widen(self, slab: int, begin: int, end: int) -> None:
        """Make a hole of a piece and the holes beside it."""
        holes = self._holes[slab]
        for hole in [hole for hole in holes if hole[1] == begin or hole[0] == end]:
            holes.remove(hole)
            begin, end = min(begin, hole[0]), max(end, hole[1])
        holes.append((begin, end))

    def _grow(self, size: int) -> tuple[int, int]:
        import cupy

        size = _SLAB_BYTES * math.ceil(size / _SLAB_BYTES)
        memory = cupy.cuda.alloc(size)
        self._slabs.append(memory)
        self._ranges.append((memory.ptr, memory.ptr + size))
        self._holes.append([self._ranges[-1]])
        self.num_bytes += size
        return len(self._holes) - 1, memory.ptr


class _Piece:
    """What an array of an arena owns."""

    def __init__(self, arena: Arena, place: tuple[int, int, int]) -> None:
        self._arena, self._place = arena, place

    def __del__(self) -> None:
        self._arena.give_back(*self._place)


def _pointer(owner: object, address: int, num_bytes: int) -> Any:
    import cupy

    device = cupy.cuda.runtime.getDevice()
    memory = cupy.cuda.UnownedMemory(address, max(1, num_bytes), owner, device)
    return cupy.cuda.MemoryPointer(memory, 0)
