"""Matrix products that go on by themselves: ``wgmma``.

An instruction is read when it is issued, its descriptors are decoded, and its operands must be
there. What it computes comes at the wait, the latest moment: operands are read again then, and the
accumulator holds garbage in between that counts as not written. So who writes into an operand too
early, or reads the accumulator, does so in every run.

Each warp of a warpgroup does its own 16 rows of the product, as in the hardware.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.bulk import swizzled
from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    DescriptorError,
    OutOfBoundsError,
    UninitializedReadError,
)
from llm_numba.simulator.lanes import WARP, Lanes
from llm_numba.simulator.memory import Buffer, View

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

_WARPS, _ROWS, _DEPTH = 4, 16, 16  # of a group; of a warp; along K
_SWIZZLE_128 = 1
_GARBAGE = 0xFF


@dataclass
class _Product:
    """One product of each of some warps.

    Attributes
    ----------
    shared : View
        Where operands lie.
    accumulator : View
    warps, group : int [n]
        Which they are, and in which of the warp's groups the product is.
    first : int [n]
        The first thread of each.
    cells : int [n, 16 + columns, 16]
        The rows of A and of B, in the typed array of shared memory.
    accumulate : bool [n]
    at : int
        Where the program stands.
    """

    shared: View
    accumulator: View
    warps: np.ndarray
    group: np.ndarray
    first: np.ndarray
    cells: np.ndarray
    accumulate: np.ndarray
    at: int

    def split(self, chosen: np.ndarray) -> "_Product":
        """Return the products of some of the warps."""
        parts = (self.warps, self.group, self.first, self.cells, self.accumulate)
        return _Product(
            self.shared, self.accumulator, *(part[chosen] for part in parts), at=self.at
        )


class Warpgroups:
    """The products that are under way on a machine."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        warps = int(machine.warp_of[-1]) + 1
        self._groups = np.zeros(warps, np.int64)  # that each warp has committed
        self._is_fenced = np.zeros(warps, bool)
        self._pending: list[_Product] = []
        # What accumulators will hold, and how many products of each warp are to be added yet.
        self._sums: dict[Buffer, np.ndarray] = {}
        self._missing: dict[Buffer, np.ndarray] = {}

    def fence(self, lanes: Lanes) -> None:
        """Let the next batch of each warp begin."""
        self._is_fenced[lanes.warps.number] = True

    def begin(
        self,
        lanes: Lanes,
        shared: View,
        accumulator: View,
        a: Any,
        b: Any,
        columns: int,
        accumulate: Any,
    ) -> None:
        """Begin a product of each warp."""
        warps = lanes.warps.number
        self._check_fence(lanes)
        self._check_size(lanes, accumulator, columns)
        by_warp = [lanes.by_warp(np.asarray(each, np.uint64)[()]) for each in (a, b)]
        adds = lanes.by_warp(np.asarray(accumulate, bool)[()])
        for matrix in (*by_warp, adds):
            if (matrix != matrix[:, :1]).any():
                raise self._fault(
                    lanes, DescriptorError, "gives lanes of a warp different operands of wgmma",
                    "Compute a descriptor from what all threads of the warpgroup share.",
                )  # fmt: skip
        first = lanes.ids[lanes.warps.lane == 0]
        of_a, of_b = (matrix[:, 0] for matrix in by_warp)
        rows = (first // WARP % _WARPS * _ROWS)[:, None] + np.arange(_ROWS)
        whole = np.broadcast_to(np.arange(columns), (len(first), columns))
        cells = np.concatenate(
            [self._cells(lanes, shared, *pair) for pair in ((of_a, rows), (of_b, whole))], axis=1
        )
        product = _Product(
            shared, accumulator, warps, self._groups[warps], first, cells, adds[:, 0], lanes.at
        )
        self._read(product, fenced=True)
        self._take(lanes, product, columns // 2)
        self._pending.append(product)
        self._machine.progress += 1

    def commit(self, lanes: Lanes) -> None:
        """End a group of each warp."""
        self._groups[lanes.warps.number] += 1
        self._is_fenced[lanes.warps.number] = False

    def wait(self, lanes: Lanes, groups: int) -> None:
        """Finish what belongs to all but a number of each warp's last groups."""
        limit = np.zeros(len(self._groups), np.int64)
        limit[lanes.warps.number] = self._groups[lanes.warps.number] - groups
        still = []
        for product in self._pending:
            due = product.group < limit[product.warps]
            if due.any():
                self._finish(product.split(due))
            if not due.all():
                still.append(product.split(~due))
        self._pending = still

    def under_way(self, buffer: Buffer) -> bool:
        """Tell whether products are to be added to an accumulator."""
        return buffer in self._missing and bool(self._missing[buffer].any())

    # -- Operands -------------------------------------------------------------------------------

    def _cells(
        self, lanes: Lanes, shared: View, descriptor: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Decode a descriptor of each warp.

        Returns
        -------
        int [n, rows, 16]
            Where the elements of the rows lie.
        """
        bits = descriptor.astype(np.int64)
        start, stride = (bits & 0x3FFF) << 4, (bits >> 32 & 0x3FFF) << 4
        if (bits >> 62 & 3 != _SWIZZLE_128).any() or (bits >> 49 & 7 != 0).any():
            raise self._fault(
                lanes, DescriptorError,
                f"gives wgmma the descriptor {int(bits[0]) & (1 << 64) - 1:#x}, whose swizzle is "
                f"{int(bits[0]) >> 62 & 3} and whose base offset is {int(bits[0]) >> 49 & 7}",
                "The simulator knows the swizzle of 128 bytes, 1 in the two highest bits, and a "
                "base offset of 0: tiles that begin at a multiple of 1024 bytes.",
            )  # fmt: skip
        line = start[:, None] + (rows // 8) * stride[:, None] + rows % 8 * 128
        byte = swizzled(line[:, :, None] + 2 * np.arange(_DEPTH))
        if byte.max() >= shared.buffer.stride:
            raise self._fault(
                lanes, OutOfBoundsError,
                f"has wgmma read byte {byte.max()} of a block's shared memory, which has "
                f"{shared.buffer.stride}",
                "Check the descriptor's address and stride, in units of 16 bytes.",
            )  # fmt: skip
        owners = self._machine.block_of[lanes.ids[lanes.warps.lane == 0]]
        return byte // 2 + (owners * (shared.buffer.stride // 2))[:, None, None]

    def _read(self, product: _Product, *, fenced: bool) -> np.ndarray:
        """Read the rows of A and B of each warp, as float64 [n, 16 + columns, 16]."""
        shared, cells = product.shared, product.cells
        machine = self._machine
        if machine.watched:
            readers = Lanes(machine, product.first, [])
            readers.at = product.at
            flat = cells.reshape(len(cells), -1)
            machine.observer.check(readers, "load", shared, flat, 2)
            if fenced:
                machine.observer.check_fenced(readers, shared, flat, 2)
        return _as_float64(shared.buffer.typed(shared.dtype)[cells])

    # -- Accumulators ---------------------------------------------------------------------------

    def _take(self, lanes: Lanes, product: _Product, count: int) -> None:
        """Take accumulators away until their products are there."""
        buffer, places = product.accumulator.buffer, self._places(product, count)
        if buffer not in self._sums:
            self._sums[buffer] = np.zeros(buffer.data.size, np.float32)
            self._missing[buffer] = np.zeros(len(self._groups), np.int64)
        held, missing = buffer.typed(np.dtype(np.float32)), self._missing[buffer]
        free = missing[product.warps] == 0
        fresh = places[free & product.accumulate]
        if buffer.written is not None and (buffer.marks(4)[fresh] != 0xFFFFFFFF).any():
            raise self._fault(
                lanes, UninitializedReadError,
                f"adds to {product.accumulator.name}, which nobody has written",
                "Write zeros first, or have the first product replace what it holds.",
            )  # fmt: skip
        self._sums[buffer][fresh] = held[fresh]
        held[places[free]] = np.full(1, _GARBAGE, np.uint8).repeat(4).view(np.float32)[0]
        if buffer.written is not None:
            buffer.marks(4)[places[free]] = 0
        missing[product.warps] += 1

    def _finish(self, product: _Product) -> None:
        tiles = self._read(product, fenced=False)
        A, B = tiles[:, :_ROWS], tiles[:, _ROWS:]
        D = A @ B.transpose(0, 2, 1)  # [n, 16, columns]
        count = D.shape[2] // 2
        # Row g + 8 h, column 8 j + 2 t + e is number 4 j + 2 h + e of lane 4 g + t.
        shares = D.reshape(-1, 2, 8, count // 4, 4, 2).transpose(0, 3, 1, 5, 2, 4)
        shares = shares.reshape(-1, count, WARP)
        buffer, places = product.accumulator.buffer, self._places(product, count)
        sums, missing = self._sums[buffer], self._missing[buffer]
        before = np.where(product.accumulate[:, None, None], sums[places], 0)
        sums[places] = (before + shares).astype(np.float32)
        missing[product.warps] -= 1
        done = places[missing[product.warps] == 0]
        buffer.typed(np.dtype(np.float32))[done] = sums[done]
        if buffer.written is not None:
            buffer.marks(4)[done] = 0xFFFFFFFF
        self._machine.progress += 1

    def _places(self, product: _Product, count: int) -> np.ndarray:
        """Return where the accumulators of each warp lie: int [n, count, 32]."""
        first = int(np.min(product.accumulator.offset)) // 4
        element = (first + np.arange(count)) * self._machine.threads
        return product.first[:, None, None] + element[:, None] + np.arange(WARP)

    # -- Faults ---------------------------------------------------------------------------------

    def _check_fence(self, lanes: Lanes) -> None:
        if not self._is_fenced[lanes.warps.number].all():
            raise self._fault(
                lanes, BarrierDivergenceError,
                "begins a batch of wgmma whose registers nothing made ready",
                "Call wgmma_fence() before the first of each batch.",
            )  # fmt: skip
        if not lanes.warps.full:
            raise self._fault(
                lanes, BarrierDivergenceError, "begins a wgmma in a warp of less than 32 threads",
                "Launch whole warpgroups, of 128 threads.",
            )  # fmt: skip

    def _check_size(self, lanes: Lanes, accumulator: View, columns: int) -> None:
        if int(accumulator.size) != columns // 2:
            raise self._fault(
                lanes, OutOfBoundsError,
                f"adds {columns} columns to {accumulator.name}, which has {accumulator.size} "
                "numbers",
                f"A thread has {columns // 2} of them.",
            )  # fmt: skip

    def _fault(self, lanes: Lanes, error: Any, what: str, remedy: str) -> Any:
        return self._machine.fault(error, lanes, np.ones(lanes.n, bool), what, remedy)


def _as_float64(elements: np.ndarray) -> np.ndarray:
    if elements.dtype == np.uint16:  # bfloat16 is the upper half of a float32
        return (elements.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return elements.astype(np.float64)
