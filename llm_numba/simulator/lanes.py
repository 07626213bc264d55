"""A group of threads that stand at the same instruction and execute it together."""

from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.atomics import Update, apply_in_order
from llm_numba.simulator.memory import Buffer, View
from llm_numba.simulator.values import narrow, take, widen

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

WARP = 32


class Warps:
    """Where the threads of a group stand in their warps.

    Attributes
    ----------
    row : int [n]
        Warp of each thread, counted among the warps that take part.
    lane : int [n]
        Place in the warp, 0 to 31.
    count : int
        Number of warps that take part.
    full : bool
        All 32 lanes of each take part.
    number : int [count]
        Which warp of the machine each row is.
    """

    def __init__(self, machine: "Machine", ids: np.ndarray) -> None:
        warp = machine.warp_of[ids]
        self.lane = machine.lane_of[ids]
        starts = np.empty(len(ids), bool)
        starts[0] = True
        np.not_equal(warp[1:], warp[:-1], out=starts[1:])
        self.row = np.cumsum(starts) - 1
        self.number = warp[starts]
        self.count = len(self.number)
        self.full = self.count * WARP == len(ids)
        self._starts = starts

    @cached_property
    def active(self) -> np.ndarray:
        """Lanes of each warp that take part, as bits."""
        bits = np.left_shift(np.int64(1), self.lane)
        return np.bitwise_or.reduceat(bits, np.flatnonzero(self._starts))

    @cached_property
    def digest(self) -> bytes:
        """Return what two groups share if the same lanes of as many warps take part."""
        return blake2b(self.active, digest_size=16).digest()


class Lanes:
    """A convergence group: threads at the same place, with their registers.

    Parameters
    ----------
    machine : Machine
    ids : int64 [n]
        Threads, ascending; numbered through the blocks that are resident.
    registers : list
        One entry a register of the program; see :mod:`llm_numba.simulator.values`.

    Attributes
    ----------
    n : int
        Number of threads.
    at : int
        Index of the source location of the current statement.
    """

    __slots__ = ("R", "_everyone", "_warps", "at", "ids", "machine", "n", "pc")

    def __init__(self, machine: "Machine", ids: np.ndarray, registers: list[Any]) -> None:
        self.machine = machine
        self.ids = ids
        self.n = len(ids)
        self.R = registers
        self.at = 0
        self.pc = 0
        self._warps: Warps | None = None
        self._everyone = self.n == machine.threads

    def subset(self, chosen: np.ndarray, live: Any) -> "Lanes":
        """Return the group of some of the threads, with the registers that are still needed."""
        registers: list[Any] = [None] * len(self.R)
        for register in live:
            value = self.R[register]
            # Most are arrays; a call for each would show.
            registers[register] = (
                value[chosen] if type(value) is np.ndarray else take(value, chosen)
            )
        part = Lanes(self.machine, self.ids[chosen], registers)
        part.at = self.at
        return part

    @property
    def warps(self) -> Warps:
        """Where the threads stand in their warps."""
        if self._warps is None:
            self._warps = Warps(self.machine, self.ids)
        return self._warps

    # -- What threads know about themselves ------------------------------------------------------

    def _mine(self, table: Any) -> Any:
        return table if self._everyone or not isinstance(table, np.ndarray) else table[self.ids]

    def thread_index(self, axis: int) -> Any:
        """Return ``threadIdx``."""
        return self._mine(self.machine.thread_index[axis])

    def block_index(self, axis: int) -> Any:
        """Return ``blockIdx``."""
        return self._mine(self.machine.block_index[axis])

    def block_size(self, axis: int) -> np.int64:
        """Return ``blockDim``."""
        return self.machine.block_size[axis]

    def grid_dim(self, axis: int) -> np.int64:
        """Return ``gridDim``."""
        return self.machine.grid_dim[axis]

    def grid_index(self, axis: int) -> Any:
        """Return the thread's place in the whole grid."""
        return self.block_index(axis) * self.block_size(axis) + self.thread_index(axis)

    def grid_size(self, axis: int) -> np.int64:
        """Return the number of threads in the whole grid."""
        return self.grid_dim(axis) * self.block_size(axis)

    def lane_index(self) -> np.ndarray:
        """Return the place in the warp, 0 to 31."""
        return self._mine(self.machine.lane_of)

    # -- Warps ----------------------------------------------------------------------------------

    def vector(self, value: Any) -> np.ndarray:
        """Return one entry a thread, also of a value that all agree on."""
        return value if isinstance(value, np.ndarray) else np.full(self.n, value)

    def by_warp(self, value: Any, fill: Any = 0) -> np.ndarray:
        """Lay a register out as [warps, 32], with ``fill`` in lanes that take no part."""
        warps = self.warps
        value = self.vector(value)
        if warps.full:
            return value.reshape(warps.count, WARP)
        matrix = np.full((warps.count, WARP), fill, value.dtype)
        matrix[warps.row, warps.lane] = value
        return matrix

    def from_warps(self, matrix: np.ndarray) -> np.ndarray:
        """Return each thread's entry of a [warps, 32] matrix."""
        warps = self.warps
        return matrix.reshape(-1) if warps.full else matrix[warps.row, warps.lane]

    # -- Memory ---------------------------------------------------------------------------------

    def cells(self, buffer: Buffer, offset: Any, itemsize: int, block: Any = None) -> Any:
        """Return where elements lie in the buffer's typed array.

        Parameters
        ----------
        buffer : Buffer
        offset : int64 or int64 [n]
            In bytes.
        itemsize : int
        block : int64 [n], optional
            Resident block whose shared memory is meant; by default the thread's own.
        """
        if buffer.space == "local":
            return self._local_cells(buffer.stride, offset, itemsize)
        cell = offset // itemsize
        if buffer.space == "shared" and self.machine.blocks > 1:
            block = self._mine(self.machine.block_of) if block is None else block
            return cell + block * (buffer.stride // itemsize)
        return cell

    def _local_cells(self, unit: int, offset: Any, itemsize: int) -> Any:
        element = offset // unit * self.machine.threads + self.ids
        if itemsize == unit:
            return element
        return element * (unit // itemsize) + offset % unit // itemsize

    def load(
        self,
        view: View,
        index: Any,
        count: int | None = None,
        *,
        kind: str = "load",
        block: Any = None,
    ) -> Any:
        """Read an element for each thread.

        Parameters
        ----------
        view : View
        index : int or tuple of int registers
        count : int, optional
            If given, ``index`` is flat and this many elements from there on are one request.
        kind : {"load", "acquire", "acquire.sys", "load.relaxed.sys"}
            Whether it is atomic, for which devices, and whether what a release published is known
            from now on; that of single elements alone.
        block : int64 [n], optional
            Whose shared memory several elements are of, as of :meth:`cells`.

        Returns
        -------
        register, or [n, count] of the storage dtype
        """
        if count is not None:
            return self._load_many(view, index, count, kind, block)
        offset = view.locate(self, index)[0]
        buffer, dtype = view.buffer, view.dtype
        cell = self.cells(buffer, offset, dtype.itemsize)
        if self.machine.watched:
            self.machine.observer.access(self, kind, view, offset, cell, dtype.itemsize)
        return widen(buffer.typed(dtype)[cell])

    def store(
        self,
        view: View,
        index: Any,
        value: Any,
        count: int | None = None,
        *,
        kind: str = "store",
        block: Any = None,
    ) -> None:
        """Write an element for each thread; ``count`` as in :meth:`load`, ``value`` [n, count].

        A store of the `kind` "release" publishes what the thread knows. One element may go into the
        shared memory of another `block`, as of :meth:`cells`.
        """
        if count is not None:
            self._store_many(view, index, value, count, kind)
            return
        offset = view.locate(self, index)[0]
        buffer, dtype = view.buffer, view.dtype
        cell = self.cells(buffer, offset, dtype.itemsize, block)
        value = narrow(value, dtype)
        if isinstance(value, np.ndarray) and not isinstance(cell, np.ndarray):
            cell = self.vector(cell)  # many threads, one element: the last one stays
        if self.machine.watched:
            self.machine.observer.access(self, kind, view, offset, cell, dtype.itemsize, value)
        memory = buffer.typed(dtype)
        # A local array is as good as registers: who writes there what it has makes no progress.
        before = memory[cell].tobytes() if buffer.space == "local" else None
        memory[cell] = value
        self.machine.progress += before is None or memory[cell].tobytes() != before

    def places(
        self, view: View, index: Any, count: int, block: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where the elements of one wide request of each thread lie; `block` as of `cells`.

        Returns
        -------
        offset : int [n]
            Byte address of the first.
        cell : int [n, count]
            Places in the buffer's typed array.
        """
        last = index + (count - 1)
        for edge in (index, last):
            view.ravel().check(self, edge, view.size, 0)
        size = view.dtype.itemsize
        offset = self.vector(view.offset + index * size)
        wide = size * count
        if (offset % wide).any():
            self.machine.misaligned(self, view, offset, wide)
        first = self.vector(self.cells(view.buffer, offset, size, block))
        return offset, first[:, None] + np.arange(count)

    def _load_many(self, view: View, index: Any, count: int, kind: str, block: Any) -> np.ndarray:
        offset, cell = self.places(view, index, count, block)
        size = view.dtype.itemsize
        if self.machine.watched:
            self.machine.observer.access(self, kind, view, offset, cell, size)
        values = view.buffer.typed(view.dtype)[cell]
        return values[:, 0] if count == 1 else values

    def _store_many(self, view: View, index: Any, value: Any, count: int, kind: str) -> None:
        offset, cell = self.places(view, index, count)
        value = np.broadcast_to(np.asarray(value).astype(view.dtype).reshape(-1, count), cell.shape)
        if self.machine.watched:
            size = view.dtype.itemsize
            self.machine.observer.access(self, kind, view, offset, cell, size, value)
        view.buffer.typed(view.dtype)[cell] = value
        self.machine.progress += 1

    def atomic(self, view: View, index: Any, update: Update, *operands: Any) -> Any:
        """Read and replace an element for one thread after the other.

        Parameters
        ----------
        view : View
        index : int or tuple of int registers
        update : Update
        *operands : registers
            What the update takes beside the element.

        Returns
        -------
        register
            The element before.
        """
        offset = view.locate(self, index)[0]
        dtype = view.dtype
        cell = self.cells(view.buffer, offset, dtype.itemsize)
        order = self.machine.order_of(self.n)
        if self.machine.watched:
            self.machine.observer.access(self, "atomic", view, offset, cell, dtype.itemsize, order)
        memory, places = view.buffer.typed(dtype), self.vector(cell)
        held = memory[places]
        values = tuple(self.vector(narrow(each, dtype)) for each in operands)
        found = apply_in_order(memory, places, values, update, np.asarray(order))
        if memory[places].tobytes() != held.tobytes():
            self.machine.progress += 1
        return widen(found)
