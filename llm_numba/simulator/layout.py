"""Where the threads of resident blocks stand, their memory, and what they are called."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from llm_numba.simulator.errors import OutOfBoundsError, SimulationError
from llm_numba.simulator.kernel import Kernel
from llm_numba.simulator.lanes import WARP, Lanes
from llm_numba.simulator.memory import Buffer, View

_GARBAGE = 0xFF  # in memory that nobody has written: NaN, or -1


class Device(NamedTuple):
    """One of the devices that run kernels at the same time.

    Attributes
    ----------
    name : str
        For messages; empty if there is only one.
    first_thread : int
        The number of its first thread among those of all devices.
    """

    name: str
    first_thread: int


ALONE = Device("", 0)


class Layout:
    """Threads and memory of the blocks that are resident together.

    Attributes
    ----------
    threads, blocks, threads_per_block : int
    first_thread : int
        The number of the first thread in the whole grid, and among those of all devices.
    thread_index, block_index : list of 3 int64 or int64 [threads]
        Coordinates; an axis on which all agree is one scalar.
    block_of, warp_of, lane_of : int [threads]
        Resident block, resident warp and place in the warp.
    alive : bool [threads]
        Which threads have not returned.
    shared : Buffer
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        blocks: range,
        shared_bytes: int,
        device: Device = ALONE,
        *,
        watched: bool,
    ) -> None:
        self.kernel = kernel
        self.device = device
        self.block_size = tuple(np.int64(extent) for extent in block)
        self.grid_dim = tuple(np.int64(extent) for extent in grid)
        self.blocks = len(blocks)
        self.threads_per_block = int(np.prod(block))
        self.threads = self.blocks * self.threads_per_block
        self.first_thread = device.first_thread + blocks.start * self.threads_per_block
        self.watched = watched
        self.alive = np.ones(self.threads, bool)
        self.block_of = np.repeat(np.arange(self.blocks), self.threads_per_block)
        self._place_threads(grid, block, blocks)
        self._lay_out_memory(shared_bytes)

    def _place_threads(self, grid: Any, block: Any, blocks: range) -> None:
        thread = np.tile(np.arange(self.threads_per_block), self.blocks)
        linear = np.repeat(np.arange(blocks.start, blocks.stop), self.threads_per_block)
        self.thread_index = _coordinates(thread, block)
        self.block_index = _coordinates(linear, grid)
        warps = -(-self.threads_per_block // WARP)
        self.lane_of = thread % WARP
        self.warp_of = self.block_of * warps + thread // WARP

    @cached_property
    def lanes_of_warp(self) -> np.ndarray:
        """Bits of the lanes that each warp has; the last of a block may have fewer than 32."""
        bits = np.zeros(int(self.warp_of[-1]) + 1, np.int64)
        np.bitwise_or.at(bits, self.warp_of, np.left_shift(np.int64(1), self.lane_of))
        return bits

    @property
    def ended_lanes(self) -> np.ndarray:
        """Bits of the lanes of each warp that have ended."""
        bits = np.zeros(int(self.warp_of[-1]) + 1, np.int64)
        ended = ~self.alive
        np.bitwise_or.at(bits, self.warp_of[ended], np.left_shift(np.int64(1), self.lane_of[ended]))
        return bits

    # -- Memory ---------------------------------------------------------------------------------

    def _lay_out_memory(self, dynamic: int) -> None:
        static = -(-self.kernel.shared_bytes // 16) * 16
        size = -(-(static + dynamic) // 16) * 16
        self.dynamic_start, self.dynamic_bytes = static, dynamic
        self.shared = Buffer("shared", np.full(self.blocks * size, _GARBAGE, np.uint8), size)
        if self.watched:
            self.shared.written = np.zeros(self.shared.data.size, np.uint8)
        self._shared_arrays: dict[Any, View] = {}
        self._local_arrays: dict[int, View] = {}

    def shared_array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype, name: str) -> View:
        """Return a static shared array."""
        key = (offset, dtype)
        if key not in self._shared_arrays:
            self._shared_arrays[key] = View.dense(self.shared, offset, shape, dtype, name)
        return self._shared_arrays[key]

    def dynamic_array(self, dtype: np.dtype, name: str) -> View:
        """Return dynamic shared memory as an array; all such arrays begin at the same byte."""
        count = self.dynamic_bytes // dtype.itemsize
        return View.dense(self.shared, self.dynamic_start, (count,), dtype, name)

    def local_array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype, name: str) -> View:
        """Return a local array."""
        if offset not in self._local_arrays:
            count = int(np.prod(shape)) * self.threads
            memory = np.full(count * dtype.itemsize, _GARBAGE, np.uint8).view(dtype)
            buffer = Buffer("local", memory, dtype.itemsize)
            if self.watched:
                buffer.written = np.zeros(count * dtype.itemsize, np.uint8)
            self._local_arrays[offset] = View.dense(buffer, 0, shape, dtype, name)
        return self._local_arrays[offset]

    # -- Names and faults -----------------------------------------------------------------------

    def place(self, lanes: Lanes) -> tuple[str, int]:
        """Return file and line where a group stands."""
        return self.kernel.locations[lanes.at]

    def fault(
        self,
        error: Callable[..., SimulationError],
        lanes: Lanes,
        chosen: np.ndarray,
        what: str,
        remedy: str,
        related: tuple[tuple[str, int], ...] = (),
    ) -> SimulationError:
        """Make the error for what some threads of a group do."""
        file, line = self.place(lanes)
        who = lanes.ids[chosen]
        return error(f"{self.names(who)} {_agree(what, len(who))}.", remedy, file, line, related)

    def names(self, ids: np.ndarray) -> str:
        """Name the first of some resident threads, and say how many more there are."""
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        return self.name(int(ids[0]) + self.first_thread) + more

    def name(self, thread: int) -> str:
        """Name a thread by its number in the whole grid, and among those of all devices."""
        block, thread = divmod(thread - self.device.first_thread, self.threads_per_block)
        where = f" of {self.device.name}" if self.device.name else ""
        threads, blocks = _name(thread, self.block_size), _name(block, self.grid_dim)
        return f"thread {threads} of block {blocks}{where}"

    def out_of_bounds(
        self, lanes: Lanes, view: View, outside: Any, index: Any, extent: Any, axis: int
    ) -> None:
        """Raise for an index outside its array."""
        outside = np.broadcast_to(outside, (lanes.n,))
        first = np.flatnonzero(outside)[0]
        value = index[first] if isinstance(index, np.ndarray) else index
        length = extent[first] if isinstance(extent, np.ndarray) else extent
        where = f" on axis {axis}" if len(view.shape) > 1 else ""
        raise self.fault(
            OutOfBoundsError,
            lanes,
            outside,
            f"uses index {value}{where} of {view.name}, which has length {length} there",
            "Guard the access with a comparison, or launch fewer threads.",
        )

    def misaligned(self, lanes: Lanes, view: View, offset: np.ndarray, wide: int) -> None:
        """Raise for a vector access that does not begin at a multiple of its size."""
        raise self.fault(
            OutOfBoundsError,
            lanes,
            offset % wide != 0,
            f"makes a {wide}-byte access to {view.name} at byte "
            f"{int(offset[offset % wide != 0][0])}, which is no multiple of {wide}",
            "Vector accesses must be aligned to their size.",
        )


def _coordinates(linear: np.ndarray, extents: tuple[int, int, int]) -> list[Any]:
    """Turn linear indices into x, y, z; an axis of length 1 stays one scalar."""
    parts: list[Any] = []
    for extent in extents:
        linear, part = np.divmod(linear, extent)
        same = len(part) > 0 and (part == part[0]).all()
        parts.append(np.int64(part[0]) if same else part.astype(np.int64))
    return parts


def _name(linear: int, extents: Any) -> str:
    values = []
    for extent in extents:
        linear, part = divmod(linear, int(extent))
        values.append(part)
    if extents[1] == extents[2] == 1:
        return str(values[0])
    return f"({', '.join(map(str, values if extents[2] > 1 else values[:2]))})"


def _agree(predicate: str, count: int) -> str:
    """Put the verb at the beginning of a predicate into the plural where it must be."""
    verb, space, rest = predicate.partition(" ")
    if count > 1 and verb.endswith("s"):
        verb = "have" if verb == "has" else verb.removesuffix("s")
    return verb + space + rest
