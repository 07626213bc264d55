"""Copies of whole tiles by the copy engine: ``cp.async.bulk.tensor`` and its tensor maps.

A copy arrives when somebody has asked its barrier in vain: late, and those that were begun last
arrive first. In the random schedule any of them may arrive then, also those that another barrier
waits for. Until then the place holds garbage that counts as not written.

A tensor map of the simulated device is 128 bytes, as a real one is, but with a layout of its own.
It names an array that must still be there.
"""

import itertools
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.errors import DescriptorError
from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.mbarriers import MBarrier
from llm_numba.simulator.memory import Buffer, View

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

WORDS = 16  # of 8 bytes, in a tensor map
SWIZZLED_BYTES = 128
_ATOM = 8 * SWIZZLED_BYTES
_MAGIC = 0x544D4150  # "TMAP"
_GARBAGE = 0xFF

_arrays: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def encode(matrix: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """Make a tensor map of the simulated device.

    Parameters
    ----------
    matrix : [rows, columns]
        Kept alive by the caller.
    box : tuple of int
        Rows and columns of a tile.

    Returns
    -------
    uint64 [16]
    """
    number = next(_numbers)
    _arrays[number] = matrix
    words = np.zeros(WORDS, np.uint64)
    words[:4] = _MAGIC, number, *box
    return words


def swizzled(byte: np.ndarray) -> np.ndarray:
    """Return where a byte lies under the 128-byte swizzle: bits 4 to 6 of an address, by 7 to 9."""
    return byte ^ (byte >> 7 & 7) << 4


@dataclass
class _Transfer:
    """A tile under way, of one thread, to shared memory."""

    owner: Lanes
    view: View
    cell: np.ndarray
    matrix: np.ndarray
    first: tuple[int, int]
    box: tuple[int, int]
    barrier: MBarrier

    def elements(self) -> np.ndarray:
        """Read the tile, with zeros for what lies outside the matrix."""
        tile = np.zeros(self.box, self.matrix.dtype)
        here, there = _overlap(self.matrix.shape, self.first, self.box)
        tile[there] = self.matrix[here]
        return tile.reshape(-1).view(self.view.dtype)


@dataclass
class _Store:
    """A tile under way, of one thread, from shared memory; and in which of its groups."""

    owner: Lanes
    view: View
    cell: np.ndarray
    matrix: np.ndarray
    first: tuple[int, int]
    box: tuple[int, int]
    group: int
    adds: bool

    def perform(self, elements: np.ndarray) -> None:
        """Bring the tile to its matrix, or add it."""
        tile = elements.reshape(-1).view(self.matrix.dtype).reshape(self.box)
        here, there = _overlap(self.matrix.shape, self.first, self.box)
        self.matrix[here] = self.matrix[here] + tile[there] if self.adds else tile[there]


def _overlap(shape: tuple[int, ...], first: tuple[int, int], box: tuple[int, int]) -> Any:
    """Return what of a box lies inside a matrix: as slices of the matrix, and of the box."""
    bounds = [
        (min(max(start, 0), extent), max(0, min(start + length, extent)), start)
        for start, length, extent in zip(first, box, shape, strict=True)
    ]
    here = tuple(slice(low, max(low, high)) for low, high, _ in bounds)
    there = tuple(
        slice(max(low - start, 0), max(low - start, 0) + max(0, high - low))
        for low, high, start in bounds
    )
    return here, there


class BulkCopies:
    """The bulk copies that are under way on a machine."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._pending: list[_Transfer] = []
        self._stores: list[_Store] = []
        self._groups = np.zeros(machine.threads, np.int64)  # of stores, that each has committed

    def load(
        self,
        lanes: Lanes,
        shared: View,
        shared_index: Any,
        tensor_map: View,
        column: Any,
        row: Any,
        barriers: View,
        barrier: Any,
        blocks: Any = None,
    ) -> None:
        """Begin a copy for each thread; or one for each block of its cluster in a mask."""
        machine = self._machine
        matrix, box = self._decode(lanes, tensor_map)
        offset = lanes.vector(shared.offset + shared_index * shared.itemsize)
        self._check_place(lanes, shared, offset, box)
        places = barriers.ravel().locate(lanes, barrier)[0]
        size = shared.dtype.itemsize
        for wanted, block in self._targets(lanes, blocks):
            states = machine.mbarriers.find(lanes, barriers, barrier, block)
            if machine.watched:
                at = lanes.vector(lanes.cells(barriers.buffer, places, 8, block))
                machine.observer.check_fenced(lanes, barriers, at, 8)
            for k in np.flatnonzero(wanted).tolist():
                owner, cell = self._tile_of(lanes, k, shared, offset, box, block)
                first = int(lanes.vector(row)[k]), int(lanes.vector(column)[k])
                transfer = _Transfer(owner, shared, cell, matrix, first, box, states[k])
                garbage = np.full(cell.size * size, _GARBAGE, np.uint8).view(shared.dtype)
                self._write(transfer, garbage)
                if machine.watched:
                    machine.observer.forget(shared, cell)
                self._pending.append(transfer)

    def _targets(self, lanes: Lanes, blocks: Any) -> Any:
        """Return which threads copy, and to which block; one such pair for each of a mask's."""
        if blocks is None:
            return [(np.ones(lanes.n, bool), None)]
        masks, size = lanes.vector(blocks), self._machine.kernel.cluster
        outside = (masks < 1) | (masks >= 1 << size)
        if outside.any():
            raise self._machine.fault(
                DescriptorError,
                lanes,
                outside,
                f"has a tile brought to the blocks of the mask {masks[outside][0]:#b}, in a "
                f"cluster of {size}",
                "Bit r of the mask stands for the block of rank r: of at least one, and of none "
                "that is not there.",
            )
        find = self._machine.barriers.block_of_cluster
        return [(masks >> rank & 1 == 1, find(lanes, rank)) for rank in range(size)]

    def store(
        self,
        lanes: Lanes,
        shared: View,
        shared_index: Any,
        tensor_map: View,
        column: Any,
        row: Any,
        *,
        adds: bool = False,
    ) -> None:
        """Begin to copy, or to add, to global memory for each thread: it happens at the wait."""
        matrix, box = self._decode(lanes, tensor_map)
        if adds and matrix.dtype.kind in "iu":
            raise self._machine.fault(
                DescriptorError,
                lanes,
                np.ones(lanes.n, bool),
                f"adds to a matrix of {matrix.dtype} by the copy engine",
                "It adds float32, float16 and bfloat16; bytes it only moves.",
            )
        rows, columns = lanes.vector(row), lanes.vector(column)
        before = (rows < 0) | (columns < 0)
        if before.any():
            raise self._machine.fault(
                DescriptorError,
                lanes,
                before,
                f"has the copy engine write a tile that begins at row {rows[before][0]} and "
                f"column {columns[before][0]}",
                "What it writes may end beyond a matrix, but not begin before it.",
            )
        offset = lanes.vector(shared.offset + shared_index * shared.itemsize)
        self._check_place(lanes, shared, offset, box)
        for k in range(lanes.n):
            owner, cell = self._tile_of(lanes, k, shared, offset, box)
            first = int(rows[k]), int(columns[k])
            group = int(self._groups[lanes.ids[k]])
            store = _Store(owner, shared, cell, matrix, first, box, group, adds)
            if self._machine.watched:
                self._read(store)
                self._machine.observer.check_fenced(owner, shared, cell, shared.dtype.itemsize)
            self._stores.append(store)
        self._machine.progress += 1

    def commit(self, lanes: Lanes) -> None:
        """End a group of each thread's stores."""
        self._groups[lanes.ids] += 1

    def wait(self, lanes: Lanes, groups: int) -> None:
        """Carry out what belongs to all but a number of each thread's last groups."""
        limit = np.full(self._machine.threads, -1)
        limit[lanes.ids] = self._groups[lanes.ids] - groups
        due = [each for each in self._stores if each.group < limit[each.owner.ids[0]]]
        if self._machine.rng is not None:
            self._machine.rng.shuffle(due)
        for store in due:
            self._stores = [each for each in self._stores if each is not store]
            store.perform(self._read(store))
            self._machine.progress += 1

    def prefetch(self, lanes: Lanes, tensor_map: View) -> None:
        """Look at the map, as the engine would; there is no cache to fill."""
        self._decode(lanes, tensor_map)

    def _read(self, store: _Store) -> np.ndarray:
        view, cell = store.view, store.cell
        if self._machine.watched:
            self._machine.observer.check(store.owner, "load", view, cell, view.dtype.itemsize)
        return view.buffer.typed(view.dtype)[cell]

    def _tile_of(
        self,
        lanes: Lanes,
        k: int,
        shared: View,
        offset: np.ndarray,
        box: tuple[int, int],
        blocks: np.ndarray | None = None,
    ) -> tuple[Lanes, np.ndarray]:
        """Return the k-th thread, and where its tile's elements lie: int [1, elements].

        In its own block, or in that of `blocks`, [n].
        """
        owner = Lanes(self._machine, lanes.ids[k : k + 1], [])
        owner.at = lanes.at
        size = shared.dtype.itemsize
        places = swizzled(offset[k] + np.arange(box[0] * SWIZZLED_BYTES // size) * size)
        block = None if blocks is None else blocks[k]
        return owner, np.atleast_2d(owner.cells(shared.buffer, places, size, block))

    def advance(self, barrier: MBarrier) -> None:
        """Let copies arrive, for somebody waits at a barrier."""
        rng = self._machine.rng
        due = [each for each in self._pending if each.barrier is barrier or rng is not None]
        if rng is not None:
            due = [each for each in due if rng.random() < 0.5]
        for transfer in reversed(due):
            self._arrive(transfer)

    def under_way(self, buffer: Buffer, cell: np.ndarray, itemsize: int) -> bool:
        """Tell whether a copy to one of some places has not arrived."""
        first = np.asarray(cell).reshape(-1) * itemsize
        return any(
            np.isin(first // each.view.dtype.itemsize, each.cell).any()
            for each in self._pending
            if each.view.buffer is buffer
        )

    def _arrive(self, transfer: _Transfer) -> None:
        self._pending = [each for each in self._pending if each is not transfer]
        observer, owner, barrier = self._machine.observer, transfer.owner, transfer.barrier
        # The thread that began the copy stands for it, at a tick that only the barrier tells of.
        if observer is not None:
            observer.publish(self._machine, owner.ids[0])
        self._write(transfer, transfer.elements())
        if observer is not None:
            barrier.gather(observer.publish(self._machine, owner.ids[0]))
        barrier.num_bytes -= transfer.cell.size * transfer.view.dtype.itemsize
        self._machine.mbarriers.complete(barrier)

    def _write(self, transfer: _Transfer, elements: np.ndarray) -> None:
        view, cell = transfer.view, transfer.cell
        values = elements.reshape(cell.shape)
        if self._machine.watched:
            size = view.dtype.itemsize
            self._machine.observer.check(transfer.owner, "async", view, cell, size, values)
        view.buffer.typed(view.dtype)[cell] = values
        self._machine.progress += 1

    def _decode(self, lanes: Lanes, tensor_map: View) -> tuple[np.ndarray, tuple[int, int]]:
        words = np.zeros(WORDS, np.uint64)
        if tensor_map.size == WORDS:
            cell = int(np.min(tensor_map.offset)) // 8
            words = tensor_map.buffer.typed(tensor_map.dtype)[cell : cell + WORDS]
        matrix = _arrays.get(int(words[1]))
        if words[0] != _MAGIC or matrix is None:
            raise self._machine.fault(
                DescriptorError,
                lanes,
                np.ones(lanes.n, bool),
                f"takes {tensor_map.name} for a tensor map, which it is not, or not any more",
                "Make it by runtime.tensor_map, and keep it and its matrix for the launch.",
            )
        return matrix, (int(words[2]), int(words[3]))

    def _check_place(
        self, lanes: Lanes, shared: View, offset: np.ndarray, box: tuple[int, int]
    ) -> None:
        num_bytes = box[0] * SWIZZLED_BYTES
        wrong = (offset % _ATOM != 0) | (offset + num_bytes > shared.buffer.stride)
        if wrong.any():
            raise self._machine.fault(
                DescriptorError,
                lanes,
                wrong,
                f"has a tile of {num_bytes} bytes brought to byte {offset[wrong][0]} of "
                f"{shared.name}",
                f"A swizzled tile begins at a multiple of {_ATOM} bytes, and ends within the "
                "block's shared memory.",
            )
