"""Matrix products that go on by themselves: ``wgmma``.

An instruction is read when it is issued, its descriptors are decoded, and its operands must be
there. What it computes comes at the wait, the latest moment: operands are read again then, and the
accumulator holds garbage in between that counts as not written. So who writes into an operand too
early, or touches the accumulator or A's registers, does so in every run.

Each warp of a warpgroup does its own 16 rows of the product, as in the hardware.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.bulk import SWIZZLED_BYTES, swizzled
from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    DescriptorError,
    OutOfBoundsError,
    RaceError,
    UninitializedReadError,
)
from llm_numba.simulator.formats import as_multiplied
from llm_numba.simulator.lanes import WARP, Lanes
from llm_numba.simulator.memory import Buffer, View

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

_WARPS, _ROWS, _BYTES = 4, 16, 32  # of a group; of a warp; along K
_WORDS = 4  # of A, in a thread's registers
_ACROSS = 64  # columns of B in a row of 128 bytes
_SWIZZLE_128 = 1
_GARBAGE, _WRITTEN = 0xFF, 0xFFFFFFFF


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
    words : View or None
        A, if it lies in registers.
    of_a : int [n, 16, depth] or int [n, 4, 32]
        Where the rows of A lie, in the typed array of shared memory; or the words of lanes.
    of_b : int [n, columns, depth]
    accumulate : bool [n]
    at : int
        Where the program stands.
    """

    shared: View
    accumulator: View
    warps: np.ndarray
    group: np.ndarray
    first: np.ndarray
    words: View | None
    of_a: np.ndarray
    of_b: np.ndarray
    accumulate: np.ndarray
    at: int

    def split(self, chosen: np.ndarray) -> "_Product":
        """Return the products of some of the warps."""
        parts = ("warps", "group", "first", "of_a", "of_b", "accumulate")
        return replace(self, **{name: getattr(self, name)[chosen] for name in parts})


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
        # How many products of each thread are still to read a word of A.
        self._readers: dict[Buffer, np.ndarray] = {}

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
        *,
        across: bool = False,
    ) -> None:
        """Begin a product of each warp; with a B that lies along its columns if `across`."""
        warps = lanes.warps.number
        self._check_fence(lanes)
        self._check_size(lanes, accumulator, columns // 2)
        first = lanes.ids[lanes.warps.lane == 0]
        words = a if isinstance(a, View) else None
        depth = np.arange(_BYTES // shared.itemsize)
        if words is None:
            # A warp's place in its group follows from its place in the block.
            inside = first % self._machine.threads_per_block
            rows = (inside // WARP % _WARPS * _ROWS)[:, None] + np.arange(_ROWS)
            of_a = self._cells(lanes, shared, self._shared_by(lanes, a), rows[:, :, None], depth)
        else:
            self._check_size(lanes, words, _WORDS)
            of_a = self._places(words, first, _WORDS)
        of_b = self._cells(
            lanes, shared, self._shared_by(lanes, b), np.arange(columns)[:, None], depth, across
        )
        adds = self._shared_by(lanes, np.asarray(accumulate, bool)[()])
        product = _Product(
            shared, accumulator, warps, self._groups[warps], first, words, of_a, of_b, adds,
            lanes.at,
        )  # fmt: skip
        self._lend(product)
        self._read(product, begun=False)
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
        """Tell whether products are to be added to an accumulator, or read a local array."""
        counts = (self._missing, self._readers)
        return any(buffer in each and bool(each[buffer].any()) for each in counts)

    # -- Operands -------------------------------------------------------------------------------

    def _shared_by(self, lanes: Lanes, operand: Any) -> np.ndarray:
        """Return the operand of each warp, which all of its lanes must agree on."""
        matrix = lanes.by_warp(operand)
        if (matrix != matrix[:, :1]).any():
            raise self._fault(
                lanes, DescriptorError, "gives lanes of a warp different operands of wgmma",
                "Compute a descriptor from what all threads of the warpgroup share.",
            )  # fmt: skip
        return matrix[:, 0]

    def _cells(
        self,
        lanes: Lanes,
        shared: View,
        descriptor: np.ndarray,
        rows: np.ndarray,
        depth: np.ndarray,
        across: bool = False,
    ) -> np.ndarray:
        """Decode a descriptor of each warp.

        Returns
        -------
        int [n, rows, depth]
            Where the elements lie: those of a row along K, or `across` of a column.
        """
        bits = np.asarray(descriptor, np.uint64).astype(np.int64)[:, None, None]
        start, stride, leading = ((bits >> shift & 0x3FFF) << 4 for shift in (0, 32, 16))
        if (bits >> 62 & 3 != _SWIZZLE_128).any() or (bits >> 49 & 7 != 0).any():
            first = int(bits.flat[0])
            raise self._fault(
                lanes, DescriptorError,
                f"gives wgmma the descriptor {first & (1 << 64) - 1:#x}, whose swizzle is "
                f"{first >> 62 & 3} and whose base offset is {first >> 49 & 7}",
                "The simulator knows the swizzle of 128 bytes, 1 in the two highest bits, and a "
                "base offset of 0: tiles that begin at a multiple of 1024 bytes.",
            )  # fmt: skip
        size = int(shared.itemsize)
        line, place = (depth, rows % _ACROSS) if across else (rows, depth)
        byte = start + line // 8 * stride + line % 8 * SWIZZLED_BYTES + place * size
        if across:
            byte = byte + rows // _ACROSS * leading
        byte = swizzled(byte)
        if byte.max() >= shared.buffer.stride:
            raise self._fault(
                lanes, OutOfBoundsError,
                f"has wgmma read byte {byte.max()} of a block's shared memory, which has "
                f"{shared.buffer.stride}",
                "Check the descriptor's address and strides, in units of 16 bytes.",
            )  # fmt: skip
        owners = self._machine.block_of[lanes.ids[lanes.warps.lane == 0]]
        return byte // size + (owners * (shared.buffer.stride // size))[:, None, None]

    def _read(self, product: _Product, *, begun: bool) -> tuple[np.ndarray, np.ndarray]:
        """Read each warp's A [n, 16, depth] and B [n, columns, depth]; `begun`: for the sums."""
        shared, of_b = product.shared, product.of_b
        if product.words is not None:
            table = product.words.buffer.typed(np.dtype(np.uint32))[product.of_a]
            # Word i of lane 4 g + t is word t + 4 (i // 2) of row g + 8 (i % 2).
            words = table.reshape(-1, 2, 2, 8, 4).transpose(0, 2, 3, 1, 4)
            A = np.ascontiguousarray(words).reshape(-1, _ROWS, 8).view(shared.dtype)
        else:
            A = self._elements(product, product.of_a, begun)
        return as_multiplied(A), as_multiplied(self._elements(product, of_b, begun))

    def _elements(self, product: _Product, cells: np.ndarray, begun: bool) -> np.ndarray:
        """Read shared memory for each warp."""
        shared, machine = product.shared, self._machine
        if machine.watched:
            readers = Lanes(machine, product.first, [])
            readers.at = product.at
            flat, size = cells.reshape(len(cells), -1), int(shared.itemsize)
            machine.observer.check(readers, "load", shared, flat, size)
            if not begun:
                machine.observer.check_fenced(readers, shared, flat, size)
        return shared.buffer.typed(shared.dtype)[cells]

    # -- A in registers -------------------------------------------------------------------------

    def _lend(self, product: _Product) -> None:
        """Let nobody touch the words of A until the product has read them."""
        if product.words is None:
            return
        buffer, places = product.words.buffer, product.of_a
        readers = self._readers.setdefault(buffer, np.zeros(buffer.data.size, np.int64))
        if buffer.written is not None:
            marks = buffer.marks(4)
            if (marks[places[readers[places] == 0]] != _WRITTEN).any():
                raise self._fault_at(
                    product, UninitializedReadError,
                    f"gives wgmma {product.words.name}, which nobody has written",
                    "Write all four words before.",
                )  # fmt: skip
            marks[places] = 0
        readers[places] += 1

    def _give_back(self, product: _Product) -> None:
        """Let the words of A be written again, if no other product is to read them."""
        if product.words is None:
            return
        buffer, places = product.words.buffer, product.of_a
        self._readers[buffer][places] -= 1
        if buffer.written is None:
            return
        marks = buffer.marks(4)
        if marks[places].any():
            raise self._fault_at(
                product, RaceError,
                f"gives wgmma {product.words.name}, which was written before the tensor cores had "
                "read it",
                "Write it behind wgmma_wait, or give each product under way words of its own.",
            )  # fmt: skip
        marks[places[self._readers[buffer][places] == 0]] = _WRITTEN

    # -- Accumulators ---------------------------------------------------------------------------

    def _take(self, lanes: Lanes, product: _Product, count: int) -> None:
        """Take accumulators away until their products are there."""
        accumulator = product.accumulator
        buffer, places = accumulator.buffer, self._places(accumulator, product.first, count)
        if buffer not in self._sums:
            self._sums[buffer] = np.zeros(buffer.data.size, accumulator.dtype)
            self._missing[buffer] = np.zeros(len(self._groups), np.int64)
        held, missing = buffer.typed(accumulator.dtype), self._missing[buffer]
        free = missing[product.warps] == 0
        fresh = places[free & product.accumulate]
        if buffer.written is not None and (buffer.marks(4)[fresh] != _WRITTEN).any():
            raise self._fault(
                lanes, UninitializedReadError,
                f"adds to {product.accumulator.name}, which nobody has written",
                "Write zeros first, or have the first product replace what it holds.",
            )  # fmt: skip
        self._sums[buffer][fresh] = held[fresh]
        held[places[free]] = np.full(4, _GARBAGE, np.uint8).view(accumulator.dtype)[0]
        if buffer.written is not None:
            buffer.marks(4)[places[free]] = 0
        missing[product.warps] += 1

    def _finish(self, product: _Product) -> None:
        A, B = self._read(product, begun=True)
        self._give_back(product)
        D = A @ B.transpose(0, 2, 1)  # [n, 16, columns]
        count = D.shape[2] // 2
        # Row g + 8 h, column 8 j + 2 t + e is number 4 j + 2 h + e of lane 4 g + t.
        shares = D.reshape(-1, 2, 8, count // 4, 4, 2).transpose(0, 3, 1, 5, 2, 4)
        shares = shares.reshape(-1, count, WARP)
        accumulator = product.accumulator
        buffer, places = accumulator.buffer, self._places(accumulator, product.first, count)
        sums, missing = self._sums[buffer], self._missing[buffer]
        before = np.where(product.accumulate[:, None, None], sums[places], 0)
        sums[places] = _rounded(before + shares, sums.dtype)
        missing[product.warps] -= 1
        done = places[missing[product.warps] == 0]
        buffer.typed(sums.dtype)[done] = sums[done]
        if buffer.written is not None:
            buffer.marks(4)[done] = _WRITTEN
        self._machine.progress += 1

    def _places(self, view: View, first: np.ndarray, count: int) -> np.ndarray:
        """Return where elements of warps with some first threads lie: int [n, count, 32]."""
        element = (int(np.min(view.offset)) // 4 + np.arange(count)) * self._machine.threads
        return first[:, None, None] + element[:, None] + np.arange(WARP)

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

    def _check_size(self, lanes: Lanes, registers: View, count: int) -> None:
        if int(registers.size) != count:
            raise self._fault(
                lanes, OutOfBoundsError,
                f"gives wgmma {registers.name}, which has {registers.size} numbers",
                f"A thread has {count} of them.",
            )  # fmt: skip

    def _fault(self, lanes: Lanes, error: Any, what: str, remedy: str) -> Any:
        return self._machine.fault(error, lanes, np.ones(lanes.n, bool), what, remedy)

    def _fault_at(self, product: _Product, error: Any, what: str, remedy: str) -> Any:
        """Return a fault of the threads that began a product, where they began it."""
        lanes = Lanes(self._machine, product.first, [])
        lanes.at = product.at
        return self._fault(lanes, error, what, remedy)


def _rounded(sums: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round float64 sums; those of integers, which are exact, wrap around."""
    return sums.astype(np.int64).astype(dtype) if dtype.kind == "i" else sums.astype(dtype)
