"""What watches a run: the cost of each line, races, and reads of what nobody wrote."""

from typing import Any

import numpy as np

from llm_numba.simulator.costs import Accounts
from llm_numba.simulator.errors import ProxyError, RaceError, UninitializedReadError
from llm_numba.simulator.kernel import Kernel
from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.machine import Machine
from llm_numba.simulator.memory import Buffer, View
from llm_numba.simulator.order import Knowledge
from llm_numba.simulator.races import (
    ASYNC,
    NOBODY,
    READS,
    SCOPE,
    SYSTEM,
    Conflict,
    Shadow,
    find_race,
    record,
)
from llm_numba.simulator.report import ArrayReport, LineReport

_COSTS_AS = {
    "acquire": "load",
    "release": "store",
    "acquire.sys": "load",
    "release.sys": "store",
    "load.relaxed.sys": "load",
    "store.relaxed.sys": "store",
    "async": "store",
}


class Observer:
    """Sees every access, branch, barrier and fence of a run.

    A fault is kept while the run goes on, for another may turn out to be its cause: what is read
    before anybody wrote it may be written later, which is a race; and threads that race may have
    missed each other at a barrier.

    Parameters
    ----------
    kernel : Kernel
    costs : bool
        Whether to count what lines cost.
    faults : bool
        Whether to look for races and uninitialised reads.

    Attributes
    ----------
    arrays : dict of str to ArrayReport
        The elements of each argument that were touched.
    fault : RaceError, UninitializedReadError, ProxyError or None
        What was found: the first race, or else the first of the others.
    """

    def __init__(self, kernel: Kernel, *, costs: bool, faults: bool) -> None:
        self._kernel = kernel
        self._costs = costs
        self._faults = faults
        self._accounts = Accounts()
        self.arrays: dict[str, ArrayReport] = {}
        self.fault: RaceError | UninitializedReadError | ProxyError | None = None
        # Where the kernel's locations begin among those of all kernels that run together.
        self._first_place = 0

    def begin(self, machine: Machine) -> None:
        """Start to watch a machine; the blocks of an earlier one are ordered with none of these."""
        self._knowledge = Knowledge(machine.threads, machine.first_thread)
        self._machine = machine

    def lines(self) -> list[LineReport]:
        """Return what each line cost."""
        return [
            LineReport(*self._kernel.locations[at], **vars(cost))
            for at, cost in sorted(
                self._accounts.lines.items(), key=lambda item: self._kernel.locations[item[0]]
            )
        ]

    # -- Events ---------------------------------------------------------------------------------

    def diverge(self, lanes: Lanes, condition: np.ndarray) -> None:
        """Count the warps that a branch splits."""
        taken = lanes.by_warp(condition, False).any(axis=1)
        other = lanes.by_warp(~condition, False).any(axis=1)
        split = int(np.count_nonzero(taken & other))
        if split and self._costs:
            self._accounts.line(lanes).divergent += split

    def barrier(self, machine: Machine, ids: np.ndarray, scope: str) -> None:
        """Note that threads of each block, of each cluster, or of the whole grid have met."""
        if not self._faults:
            return
        block = machine.block_of[ids]
        ids = ids + machine.device.first_thread
        if scope == "grid" or block[0] == block[-1]:
            self._knowledge.meet(ids)
            return
        if scope == "cluster":
            block = block // machine.kernel.cluster
        for part in np.split(ids, np.flatnonzero(np.diff(block)) + 1):
            self._knowledge.meet(part)

    def sync_warp(self, lanes: Lanes, mask: Any) -> None:
        """Note that threads of each warp that are in the mask have met."""
        if not self._faults:
            return
        warps = lanes.warps
        masks = lanes.vector(np.int64(0xFFFFFFFF) if mask is None else mask) & 0xFFFFFFFF
        key = warps.row.astype(np.int64) << 32 | masks
        order = np.argsort(key, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
            self._knowledge.meet(_residents(lanes)[part])

    def fence(self, lanes: Lanes) -> None:
        """Note that threads pass a memory fence."""
        if self._faults:
            self._knowledge.fence(_residents(lanes))

    def fence_async(self, lanes: Lanes) -> None:
        """Note that threads have a fence between what they wrote and the async proxy."""
        if self._faults:
            self._knowledge.fence_proxy(_residents(lanes))

    def publish(self, machine: Machine, thread: int) -> np.ndarray:
        """Return what a thread tells others when it arrives at a barrier that counts."""
        return self._knowledge.publish(int(thread) + machine.device.first_thread)

    def learn(self, machine: Machine, threads: np.ndarray, known: np.ndarray) -> None:
        """Note that threads learn what was told at such a barrier."""
        self._knowledge.learn(threads + machine.device.first_thread, known)

    def access(
        self,
        lanes: Lanes,
        kind: str,
        view: View,
        offset: Any,
        cell: Any,
        itemsize: int,
        value: Any = None,
    ) -> None:
        """Note that threads load, store or update memory.

        Parameters
        ----------
        lanes : Lanes
        kind : {"load", "store", "async", "atomic"} or another of SCOPE
        view : View
        offset : int64 or int64 [n]
            Byte address in the buffer or the block's shared memory.
        cell : int64, int64 [n] or int64 [n, count]
            Places of the elements in the buffer's typed array.
        itemsize : int
        value : array, optional
            What is stored; of an atomic, the order in which threads perform it.
        """
        buffer = view.buffer
        count = cell.shape[1] if np.ndim(cell) == 2 else 1
        if self._costs and buffer.space in ("global", "shared"):
            cost = _COSTS_AS.get(kind, kind)
            self._accounts.add(lanes, buffer.space, cost, offset, itemsize * count)
            if buffer.space == "global":
                self._count_elements(view.name.strip("`"), cost, lanes.n * count)
        self.check(lanes, kind, view, cell, itemsize, value)

    def _count_elements(self, name: str, kind: str, count: int) -> None:
        touched = self.arrays.setdefault(name, ArrayReport())
        match kind:
            case "load":
                touched.loads += count
            case "store":
                touched.stores += count
            case "atomic":
                touched.atomics += count

    def check(
        self, lanes: Lanes, kind: str, view: View, cell: Any, itemsize: int, value: Any = None
    ) -> None:
        """Look for what is wrong with an access, and leave its cost; as for :meth:`access`."""
        if not self._faults:
            return
        buffer = view.buffer
        try:
            if buffer.written is not None and self.fault is None:
                self._check_written(lanes, kind, view, cell, itemsize)
        except UninitializedReadError as fault:
            self.fault = fault
        try:
            if buffer.space in ("global", "shared"):
                self._check_races(lanes, kind, view, cell, itemsize, value)
        except RaceError as fault:
            self.fault = fault
            self._faults = False

    def forget(self, view: View, cell: np.ndarray) -> None:
        """Count some elements as not written, whatever they held."""
        if view.buffer.written is not None:
            view.buffer.marks(view.dtype.itemsize)[cell] = 0

    def check_fenced(self, lanes: Lanes, view: View, cell: Any, itemsize: int) -> None:
        """Look for what the async proxy reads for threads and was not fenced; see `access`."""
        shadow = view.buffer.shadow
        if not self._faults or self.fault is not None or shadow is None:
            return
        threads, cells = self._elements(lanes, view.buffer, cell, itemsize)
        writers = shadow.writer[cells]
        ordinary = np.flatnonzero((writers != NOBODY) & (shadow.write_scope[cells] != ASYNC))
        ticks = shadow.write_tick[cells[ordinary]]
        fenced = self._knowledge.is_fenced(threads[ordinary], writers[ordinary], ticks)
        if not fenced.all():
            first = ordinary[~fenced][0]
            place = int(shadow.write_place[cells[first]])
            self.fault = self._unfenced(
                lanes, view, Conflict(int(threads[first]), int(writers[first]), place, "write")
            )

    # -- Faults ---------------------------------------------------------------------------------

    def _unfenced(self, lanes: Lanes, view: View, conflict: Conflict) -> ProxyError:
        other, file, line = self.witness(conflict)
        return lanes.machine.fault(  # type: ignore[return-value]
            ProxyError,
            lanes,
            lanes.ids + lanes.machine.first_thread == conflict.thread,
            f"has an element of {view.name} read by the async proxy that {other} wrote at line "
            f"{line}, with no fence for that proxy behind it",
            "Let each thread that wrote call fence_async(), before the barrier that tells of it.",
            related=((file, line),),
        )

    def _check_written(self, lanes: Lanes, kind: str, view: View, cell: Any, itemsize: int) -> None:
        size = min(itemsize, 8)
        if itemsize > size:
            cell = (np.asarray(cell)[..., None] * 2 + np.arange(2)).reshape(-1, 2)
        marks = view.buffer.marks(size)
        all_ones = np.uint64(2 ** (8 * size) - 1)
        if kind in READS or kind == "atomic":
            missing = marks[cell] != all_ones
            if np.any(missing):
                self._raise_missing(lanes, view, missing, cell, size)
        if kind not in READS:
            marks[cell] = all_ones

    def _raise_missing(self, lanes: Lanes, view: View, missing: Any, cell: Any, size: int) -> None:
        who = lanes.vector(missing) if np.ndim(missing) < 2 else missing.any(axis=1)
        places = np.broadcast_to(cell, np.shape(missing))[missing]
        if lanes.machine.copies.under_way(view.buffer, places, size):
            what = "before a copy has arrived there"
            remedy = "Wait for it with cp_async_wait, and let a barrier tell the other threads."
        elif lanes.machine.bulk.under_way(view.buffer, places, size):
            what = "before the copy engine has brought it"
            remedy = "Wait at the barrier that the copy reports to, with mbarrier_test."
        elif view.buffer.space == "local" and lanes.machine.warpgroups.under_way(view.buffer):
            what = "while tensor cores still work with it"
            remedy = "Wait for them with wgmma_wait."
        else:
            what = "where nobody has written"
            remedy = "Write it first, zeros too: such memory holds whatever was there before."
        raise lanes.machine.fault(
            UninitializedReadError, lanes, who, f"reads {view.name} {what}", remedy
        )

    def _check_races(
        self, lanes: Lanes, kind: str, view: View, cell: Any, itemsize: int, value: Any
    ) -> None:
        buffer, changes, ids = view.buffer, None, _residents(lanes)
        if kind == "store":
            stored = buffer.typed(value.dtype)[cell]
            changes = np.broadcast_to(_bits(stored) != _bits(value), np.shape(cell) or (lanes.n,))
            self._check_clash(lanes, view, cell, value, changes.shape)
        threads, cells = self._elements(lanes, buffer, cell, itemsize)
        if changes is not None:
            changes = np.repeat(changes.reshape(-1), len(cells) // changes.size)
        if kind == "atomic":
            self._knowledge.touch_flag(ids[value], id(buffer), lanes.vector(cell)[value])
        conflict = find_race(buffer.shadow, self._knowledge, threads, cells, kind, changes)
        if conflict is not None:
            raise self._race(lanes, kind, view, conflict)
        flags = (id(buffer), lanes.vector(cell)) if kind in SCOPE else None
        everywhere = SCOPE.get(kind) == SYSTEM
        if kind.startswith("acquire"):
            self._knowledge.acquire(ids, *flags, everywhere)
        # What was read atomically may be written atomically at any time: nobody asks for it later.
        if kind in SCOPE and kind in READS:
            return
        place = self._first_place + lanes.at
        record(buffer.shadow, self._knowledge, threads, cells, kind, place)
        if kind.startswith("release"):
            self._knowledge.release(ids, *flags, everywhere)

    def _check_clash(
        self, lanes: Lanes, view: View, cell: Any, value: Any, shape: tuple[int, ...]
    ) -> None:
        """Raise if threads of the group store different values to one element."""
        flat = np.broadcast_to(cell, shape).reshape(-1)
        values = np.broadcast_to(_bits(value), shape).reshape(-1)
        order = np.argsort(flat, kind="stable")
        cells, stored = flat[order], values[order]
        clash = (cells[1:] == cells[:-1]) & (stored[1:] != stored[:-1])
        if clash.any():
            first = int(np.flatnonzero(clash)[0])
            mine, other = lanes.ids[order[first : first + 2] // (flat.size // lanes.n)]
            raise lanes.machine.fault(
                RaceError,
                lanes,
                lanes.ids == mine,
                f"and {lanes.machine.names(np.array([other]))} write different values to one "
                f"element of {view.name} in the same statement",
                "Let one thread write it, or use an atomic operation.",
            )

    def _elements(
        self, lanes: Lanes, buffer: Buffer, cell: Any, itemsize: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return thread and shadow cell of each element that is touched."""
        granule = buffer.granule
        if buffer.shadow is None or itemsize < granule:
            if buffer.shadow is None:
                buffer.granule = granule = min(itemsize, 8)
                buffer.shadow = Shadow(-(-buffer.data.size // granule))
            else:
                buffer.shadow.split(granule // itemsize)
                buffer.granule = granule = itemsize
        cells = np.broadcast_to(cell, (lanes.n, *np.shape(cell)[1:])).reshape(lanes.n, -1)
        if itemsize > granule:
            parts = itemsize // granule
            cells = (cells[:, :, None] * parts + np.arange(parts)).reshape(lanes.n, -1)
        threads = lanes.ids + lanes.machine.first_thread
        return np.repeat(threads, cells.shape[1]), cells.reshape(-1)

    def witness(self, conflict: Conflict) -> tuple[str, str, int]:
        """Name the thread that made the earlier of two accesses, and file and line of it."""
        return (self._machine.name(conflict.other), *self._kernel.locations[conflict.place])

    def _race(self, lanes: Lanes, kind: str, view: View, conflict: Conflict) -> RaceError:
        machine = lanes.machine
        mine = lanes.ids + machine.first_thread == conflict.thread
        did = {"load": "reads", "store": "writes", "atomic": "updates"}[_COSTS_AS.get(kind, kind)]
        earlier = "wrote" if conflict.kind == "write" else "read"
        other, file, line = self.witness(conflict)
        where = f"line {line}" if file == machine.place(lanes)[0] else f"{file}:{line}"
        remedy = {
            "shared": "Put cuda.syncthreads() (or cuda.syncwarp() within a warp) between the two.",
            "global": "Give each element to one thread, use an atomic operation, or split the "
            "kernel in two.",
        }[view.buffer.space]
        if np.any(self._knowledge.are_apart(*np.array([[conflict.thread], [conflict.other]]))):
            remedy = "Let the one release a flag for all devices, and the other acquire it before."
        return machine.fault(
            RaceError,
            lanes,
            mine,
            f"{did} an element of {view.name} that {other} {earlier} at {where}, with nothing "
            "between that orders them",
            remedy,
            related=((file, line),),
        )


def _residents(lanes: Lanes) -> np.ndarray:
    """Return the numbers of threads among all that are resident, on whatever device."""
    return lanes.ids + lanes.machine.device.first_thread


def _bits(value: Any) -> Any:
    """Return a value's bits, so that NaN equals itself."""
    if value.dtype.kind in "fcV":
        width = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}.get(value.dtype.itemsize)
        return value.view(width) if width else value
    return value
