"""The machine: groups of threads, and which of them goes on next.

Threads of all resident blocks that stand at the same place form one group and execute as one NumPy
vector. A branch that sends them different ways splits the group; groups that meet at the same block
of the program join again. In the ordered schedule the group that is furthest behind runs first, so
they meet as early as possible. In the random schedule any group, or any part of one, runs next.
"""

from typing import Any

import numpy as np

from llm_numba.simulator.barriers import Barriers
from llm_numba.simulator.bulk import BulkCopies
from llm_numba.simulator.collectives import Collectives
from llm_numba.simulator.copies import Copies
from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    DeadlockError,
    KernelAssertionError,
)
from llm_numba.simulator.kernel import Kernel
from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.layout import ALONE, Device, Layout
from llm_numba.simulator.mbarriers import MBarriers
from llm_numba.simulator.named import NamedBarriers
from llm_numba.simulator.spinning import Spinning
from llm_numba.simulator.values import join
from llm_numba.simulator.warpgroups import Warpgroups

STOPPED = -1  # in place of a block's number: the group has split, ended or waits


class Machine(Layout):
    """Resident blocks of one launch.

    Parameters
    ----------
    kernel : Kernel
    grid, block : tuple of 3 int
    blocks : range
        Which blocks of the grid, in linear order, are resident.
    arguments : list
        Views and registers.
    shared_bytes : int
        Dynamic shared memory of a block.
    observer : Observer or None
        What watches memory accesses and branches.
    rng : numpy Generator or None
        The random schedule, or None for the ordered one.
    output : list of str
        Takes what the kernel prints.
    device : Device
        Where it runs, if there are several.
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        blocks: range,
        arguments: list[Any],
        shared_bytes: int,
        observer: Any,
        rng: np.random.Generator | None,
        output: list[str],
        device: Device = ALONE,
    ) -> None:
        watched = observer is not None
        super().__init__(kernel, grid, block, blocks, shared_bytes, device, watched=watched)
        self.observer = observer
        self.rng = rng
        self.output = output
        self.progress = 0
        self.exited_of_block = np.zeros(self.blocks, np.int64)
        self.barriers = Barriers(self)
        self.collectives = Collectives(self)
        self.copies = Copies(self)
        self.named = NamedBarriers(self)
        self.mbarriers = MBarriers(self)
        self.bulk = BulkCopies(self)
        self.warpgroups = Warpgroups(self)
        self._ready: dict[int, list[Lanes]] = {}
        self._asleep: list[Lanes] = []
        self._lowest = np.inf
        self._spinning = Spinning(self)
        registers: list[Any] = [None] * kernel.registers
        registers[: len(arguments)] = arguments
        first = Lanes(self, np.arange(self.threads), registers)
        self.add(first, 0)

    # -- Scheduling -----------------------------------------------------------------------------

    def add(self, group: Lanes, pc: int) -> None:
        """Let a group go on at a block of the program."""
        group.pc = pc
        self._ready.setdefault(pc, []).append(group)
        self._lowest = min(self._lowest, pc)

    def run(self) -> None:
        """Run until all threads have ended.

        Raises
        ------
        SimulationError
            If the kernel does something wrong.
        """
        while self.step():
            pass

    def step(self) -> bool:
        """Let one group go on until another has to; tell whether there was any.

        Raises
        ------
        SimulationError
            If the kernel does something wrong.
        """
        program = self.kernel.program
        ordered = self.rng is None
        group = self._next()
        if group is None:
            if self.alive.any():
                explain_standstill(self)
            return False
        pc = group.pc
        while pc != STOPPED:
            group.pc = pc
            pc = program[pc](group)
            if pc != STOPPED and (pc >= self._lowest or not ordered):
                self.add(group, pc)
                break
        return True

    @property
    def is_stalled(self) -> bool:
        """Whether all who could go on went round a loop, and nothing changed: they wait."""
        return not self._ready and 0 < len(self._asleep) < self._spinning.idle

    def _next(self) -> Lanes | None:
        if not self._ready:
            self._wake()
            if not self._ready:
                return None
        if self.rng is not None:
            return self._draw(self.rng)
        pc = self._lowest
        group = self.merge(self._ready.pop(pc), pc)
        self._lowest = min(self._ready, default=np.inf)
        return group

    def _draw(self, rng: np.random.Generator) -> Lanes:
        """Take any group, or some warps or threads of one."""
        places = list(self._ready)
        pc = places[rng.integers(len(places)) if len(places) > 1 else 0]
        groups = self._ready.pop(pc)
        if rng.random() < 0.5 and len(groups) > 1:
            chosen = groups.pop(rng.integers(len(groups)))
            self._ready[pc] = groups
        else:
            chosen = self.merge(groups, pc)
        if chosen.n == 1 or rng.random() < 0.5:
            chosen.pc = pc
            return chosen
        if rng.random() < 0.8:
            now = (rng.random(chosen.warps.count) < 0.5)[chosen.warps.row]
        else:
            now = rng.random(chosen.n) < 0.5
        if now.any() and not now.all():
            live = self.kernel.live[pc]
            self.add(chosen.subset(np.flatnonzero(~now), live), pc)
            chosen = chosen.subset(np.flatnonzero(now), live)
        chosen.pc = pc
        return chosen

    def merge(self, groups: list[Lanes], pc: int) -> Lanes:
        """Make one group of several that stand at the same block of the program."""
        if len(groups) == 1:
            return groups[0]
        ids = np.concatenate([group.ids for group in groups])
        order = np.argsort(ids, kind="stable")
        registers: list[Any] = [None] * self.kernel.registers
        counts = [group.n for group in groups]
        for register in self.kernel.live[pc]:
            registers[register] = join([group.R[register] for group in groups], counts, order)
        merged = Lanes(self, ids[order], registers)
        merged.at = groups[0].at
        merged.pc = pc
        return merged

    # -- How a block of the program ends ----------------------------------------------------------

    def branch(self, group: Lanes, condition: Any, taken: int, other: int) -> int:
        """Go one way, or split the group."""
        if not isinstance(condition, np.ndarray):
            return taken if condition else other
        count = np.count_nonzero(condition)
        if count == group.n:
            return taken
        if count == 0:
            return other
        if self.watched:
            self.observer.diverge(group, condition)
        for way, pc in ((condition, taken), (~condition, other)):
            self.add(group.subset(np.flatnonzero(way), self.kernel.live[pc]), pc)
        return STOPPED

    def exit(self, group: Lanes) -> int:
        """End the threads of a group."""
        self.progress += 1
        self.alive[group.ids] = False
        self.exited_of_block += np.bincount(self.block_of[group.ids], minlength=self.blocks)
        self.barriers.check_exit(group)
        self.collectives.check_ended()
        return STOPPED

    def raised(self, group: Lanes, message: str) -> int:
        """Report an exception that the kernel raises."""
        raise self.fault(
            KernelAssertionError,
            group,
            np.ones(group.n, bool),
            f"raised {message}",
            "A GPU shows this only with @cuda.jit(debug=True, opt=False); otherwise the thread "
            "ends in silence.",
        )

    def spin(self, group: Lanes, header: int) -> int:
        """Let the others go on before another round of a loop that waits for them."""
        group.pc = header
        if self._spinning.in_vain(group):
            raise self.fault(
                DeadlockError,
                group,
                np.ones(group.n, bool),
                "waits in a loop for memory that no other thread changes any more",
                "Let some thread write what the loop waits for, and let it do so before it waits "
                "itself.",
            )
        self._asleep.append(group)
        return STOPPED

    def _wake(self) -> None:
        asleep, self._asleep = self._asleep, []
        for group in asleep:
            self.add(group, group.pc)

    # -- Atomics and those who wait ---------------------------------------------------------------

    def order_of(self, count: int) -> np.ndarray:
        """Return the order in which threads of a group perform an atomic operation."""
        return np.arange(count) if self.rng is None else self.rng.permutation(count)

    def waiting_groups(self) -> list[tuple[str, Lanes]]:
        """Return the groups that cannot go on, with what they wait at."""
        at_operations = self.collectives.waiting_groups()
        at_barriers = self.barriers.waiting_groups() + self.named.waiting_groups()
        return [("a warp-wide operation", group) for group in at_operations] + [
            ("a barrier", group) for group in at_barriers
        ]

    # -- Output -----------------------------------------------------------------------------------

    def print(self, lanes: Lanes, parts: tuple[Any, ...]) -> None:
        """Print a line for each thread."""
        columns = [
            lanes.vector(part) if hasattr(part, "dtype") else [part] * lanes.n for part in parts
        ]
        self.output += [" ".join(map(str, row)) + "\n" for row in zip(*columns, strict=True)]


def explain_standstill(machine: Machine) -> None:
    """Raise for threads that wait for each other, when nobody can go on."""
    waiting = machine.waiting_groups()
    what, group = waiting[0]
    others = [
        f"{machine.names(other.ids)} at {kind}, line {machine.place(other)[1]}"
        for kind, other in waiting[1:]
    ]
    detail = f"; meanwhile {' and '.join(others)}" if others else ""
    raise machine.fault(
        BarrierDivergenceError if what == "a warp-wide operation" or others else DeadlockError,
        group,
        np.ones(group.n, bool),
        f"waits at {what} that the other threads never reach{detail}",
        "Move the barrier out of the branch, so that all threads reach the same one.",
    )
