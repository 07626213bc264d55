"""Barriers of a block and of the grid, and how threads go wrong at them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.errors import BarrierDivergenceError
from llm_numba.simulator.lanes import Lanes

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

_NOWHERE = -1


class Barriers:
    """Who waits where.

    All threads of a block (or of the grid) must come to the same barrier: the CUDA programming
    guide promises nothing if some go to another one, or have returned.
    """

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.passed = 0
        self._arrived = np.zeros(machine.blocks, np.int64)
        self._site = np.full(machine.blocks, _NOWHERE)
        self._waiting: dict[int, list[Lanes]] = {}

    def arrive(
        self,
        group: Lanes,
        after: int,
        scope: str,
        combine: str | None,
        source: int | None,
        result: int | None,
    ) -> int:
        """Let a group wait until its blocks are complete.

        Parameters
        ----------
        group : Lanes
        after : int
            Where the program goes on.
        scope : {"block", "grid"}
        combine : {"count", "and", "or"} or None
            What to compute over the threads' predicates.
        source, result : int or None
            Registers of the predicate and of what comes out.

        Returns
        -------
        int
            ``after`` if the whole group may go on at once, else -1.
        """
        machine = self.machine
        counts = np.bincount(machine.block_of[group.ids], minlength=machine.blocks)
        here = np.flatnonzero(counts)
        self._check(group, here, after)
        first = (self._arrived[here] == 0).all()
        self._site[here] = after
        self._arrived += counts
        complete = self._arrived == machine.threads_per_block
        if scope == "grid":
            first = group.n == machine.threads
            complete[:] = complete.all()
        if first and complete[here].all():
            self._release(group, complete, scope, combine, source, result)
            return after
        self._waiting.setdefault(after, []).append(group)
        if complete.any():
            self._let_go(after, complete, scope, combine, source, result)
        return _NOWHERE

    def _let_go(
        self, after: int, complete: np.ndarray, scope: str, combine: Any, source: Any, result: Any
    ) -> None:
        machine = self.machine
        live = [*machine.kernel.live[after]]
        going, staying = [], []
        for group in self._waiting.pop(after):
            free = complete[machine.block_of[group.ids]]
            if free.all():
                going.append(group)
            elif not free.any():
                staying.append(group)
            else:
                going.append(group.subset(np.flatnonzero(free), live))
                staying.append(group.subset(np.flatnonzero(~free), live))
        if staying:
            self._waiting[after] = staying
        merged = machine.merge(going, after)
        self._release(merged, complete, scope, combine, source, result)
        machine.add(merged, after)

    def _release(
        self, group: Lanes, complete: np.ndarray, scope: str, combine: Any, source: Any, result: Any
    ) -> None:
        machine = self.machine
        self._arrived[complete] = 0
        self._site[complete] = _NOWHERE
        if machine.observer is not None:
            machine.observer.barrier(group, scope)
        self.passed += int(np.count_nonzero(complete))
        if combine is not None:
            group.R[result] = self._combine(group, combine, group.vector(group.R[source]))

    def _combine(self, group: Lanes, combine: str, predicate: np.ndarray) -> np.ndarray:
        machine = self.machine
        block = machine.block_of[group.ids]
        true = np.bincount(block, weights=predicate, minlength=machine.blocks).astype(np.int64)
        if combine == "and":
            true = (true == machine.threads_per_block).astype(np.int64)
        elif combine == "or":
            true = (true > 0).astype(np.int64)
        return true[block]

    def _check(self, group: Lanes, here: np.ndarray, after: int) -> None:
        machine = self.machine
        ended = machine.exited_of_block[here] > 0
        if ended.any():
            self._raise_for_exit(group, here[ended][0])
        elsewhere = (self._site[here] != _NOWHERE) & (self._site[here] != after)
        if elsewhere.any():
            block = here[elsewhere][0]
            other = next(
                each
                for each in self._waiting[int(self._site[block])]
                if (machine.block_of[each.ids] == block).any()
            )
            raise machine.fault(
                BarrierDivergenceError,
                group,
                machine.block_of[group.ids] == block,
                f"waits at one barrier while {machine.names(other.ids)} waits at another, "
                f"line {machine.place(other)[1]}",
                "Move the barrier out of the branch, so that all threads reach the same one.",
            )

    def check_exit(self, group: Lanes) -> None:
        """Raise if threads end while others of their block wait for them."""
        blocks = self.machine.block_of[group.ids]
        left = np.flatnonzero(self._site[blocks] != _NOWHERE)
        if len(left):
            block = blocks[left[0]]
            waiting = next(
                each
                for each in self._waiting[int(self._site[block])]
                if (self.machine.block_of[each.ids] == block).any()
            )
            self._raise_for_exit(waiting, block)

    def _raise_for_exit(self, waiting: Lanes, block: int) -> None:
        machine = self.machine
        ended = np.flatnonzero((machine.block_of == block) & ~machine.alive)
        raise machine.fault(
            BarrierDivergenceError,
            waiting,
            machine.block_of[waiting.ids] == block,
            f"waits at a barrier, but {machine.names(ended)} returned and never comes there",
            "Let all threads reach the barrier: guard the work, not the barrier, and return behind "
            "the last one.",
        )

    def waiting_groups(self) -> list[Lanes]:
        """Return the groups that wait."""
        return [group for groups in self._waiting.values() for group in groups]
