"""Barriers of a block, a cluster and the grid, and how threads go wrong at them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    DeadlockError,
    OutOfBoundsError,
    RaceError,
)
from llm_numba.simulator.lanes import Lanes

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

_NOWHERE = -1


@dataclass
class _Waiting:
    """A group at a barrier that others have not reached."""

    group: Lanes
    after: int
    result: int | None

    def part(self, chosen: np.ndarray, live: Any) -> "_Waiting":
        return _Waiting(self.group.subset(chosen, live), self.after, self.result)


class Barriers:
    """Who waits where.

    All threads of a block (or of a cluster, or of the grid) must come to the same barrier: the CUDA
    programming guide promises nothing if some go to another one, or have returned. The same means
    the same line of the source, for Python may compile one line twice.
    """

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.passed = 0
        self._announced = np.zeros(machine.threads, bool)
        # What threads have fenced for their cluster, and what clusters were told of it.
        self._fenced: dict[int, np.ndarray] = {}
        self._told: dict[int, np.ndarray] = {}
        self._has_begun = np.zeros(machine.blocks, bool)  # and its cluster knows
        self._arrived = np.zeros(machine.blocks, np.int64)
        self._site = np.full(machine.blocks, _NOWHERE)
        self._waiting: dict[int, list[_Waiting]] = {}

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
        scope : {"block", "cluster", "beginning", "grid"}
            "beginning" is that of a cluster, and orders no accesses to memory.
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
        machine.progress += 1
        if scope == "beginning":
            self._check_announced(group)
        counts = np.bincount(machine.block_of[group.ids], minlength=machine.blocks)
        here = np.flatnonzero(counts)
        self._check(group, here)
        first = (self._arrived[here] == 0).all()
        self._site[here] = group.at
        self._arrived += counts
        complete = (self._arrived == machine.threads_per_block) & (self._site == group.at)
        if scope != "block":
            together = machine.blocks if scope == "grid" else machine.kernel.cluster
            complete = complete.reshape(-1, together).all(axis=1).repeat(together)
            self._has_begun |= complete
        if combine is not None:
            # Until the others come, the predicate waits in the register of what comes out.
            group.R[result] = group.vector(group.R[source])
        entry = _Waiting(group, after, result)
        if first and (complete == (counts > 0)).all():
            self._release([entry], group.ids, complete, scope, combine)
            return after
        self._waiting.setdefault(group.at, []).append(entry)
        if complete.any():
            self._let_go(group.at, complete, scope, combine)
        return _NOWHERE

    def _let_go(self, site: int, complete: np.ndarray, scope: str, combine: str | None) -> None:
        machine = self.machine
        going, staying = [], []
        for entry in self._waiting.pop(site):
            free = complete[machine.block_of[entry.group.ids]]
            live = machine.kernel.live[entry.after]
            if free.any():
                going.append(entry.part(np.flatnonzero(free), live))
            if not free.all():
                staying.append(entry.part(np.flatnonzero(~free), live))
        if staying:
            self._waiting[site] = staying
        ids = np.sort(np.concatenate([entry.group.ids for entry in going]))
        self._release(going, ids, complete, scope, combine)
        for entry in going:
            machine.add(entry.group, entry.after)

    def _release(
        self,
        entries: list[_Waiting],
        ids: np.ndarray,
        complete: np.ndarray,
        scope: str,
        combine: str | None,
    ) -> None:
        machine = self.machine
        self._arrived[complete] = 0
        self._site[complete] = _NOWHERE
        self.passed += int(np.count_nonzero(complete))
        if machine.observer is not None and scope != "beginning":
            machine.observer.barrier(machine, ids, scope)
        elif self._told:
            self._tell(ids)
        if combine is not None:
            self._combine(entries, combine)

    def _combine(self, entries: list[_Waiting], combine: str) -> None:
        machine = self.machine
        true = np.zeros(machine.blocks, np.int64)
        for entry in entries:
            predicate = entry.group.vector(entry.group.R[entry.result])
            np.add.at(true, machine.block_of[entry.group.ids], predicate)
        if combine == "and":
            true = (true == machine.threads_per_block).astype(np.int64)
        elif combine == "or":
            true = (true > 0).astype(np.int64)
        for entry in entries:
            entry.group.R[entry.result] = true[machine.block_of[entry.group.ids]]

    def _check(self, group: Lanes, here: np.ndarray) -> None:
        machine = self.machine
        ended = machine.exited_of_block[here] > 0
        if ended.any():
            self._raise_for_exit(group, here[ended][0])
        elsewhere = (self._site[here] != _NOWHERE) & (self._site[here] != group.at)
        if elsewhere.any():
            block = here[elsewhere][0]
            other = self._one_waiting(block)
            raise machine.fault(
                BarrierDivergenceError,
                group,
                machine.block_of[group.ids] == block,
                f"waits at one barrier while {machine.names(other.ids)} waits at another, "
                f"line {machine.place(other)[1]}",
                "Move the barrier out of the branch, so that all threads reach the same one.",
                related=(machine.place(other),),
            )

    def _one_waiting(self, block: int) -> Lanes:
        """Return a group that waits at the barrier of a block."""
        blocks = self.machine.block_of
        return next(
            entry.group
            for entry in self._waiting[int(self._site[block])]
            if (blocks[entry.group.ids] == block).any()
        )

    def check_exit(self, group: Lanes) -> None:
        """Raise if threads end while others of their block wait for them."""
        blocks = self.machine.block_of[group.ids]
        left = np.flatnonzero(self._site[blocks] != _NOWHERE)
        if len(left):
            block = blocks[left[0]]
            self._raise_for_exit(self._one_waiting(block), block)

    def _raise_for_exit(self, waiting: Lanes, block: int) -> None:
        machine = self.machine
        ended = np.flatnonzero((machine.block_of == block) & ~machine.alive)
        raise machine.fault(
            BarrierDivergenceError,
            waiting,
            machine.block_of[waiting.ids] == block,
            f"waits at a barrier, but {machine.names(ended)} returned without it",
            "Let all threads reach the barrier: guard the work, not the barrier, and return behind "
            "the last one.",
        )

    def fence(self, group: Lanes) -> None:
        """Note that threads make ready for their cluster what they know, mbarriers above all."""
        observer = self.machine.observer
        if observer is not None:
            for thread in group.ids.tolist():
                self._fenced[thread] = observer.publish(self.machine, thread)

    def announce(self, group: Lanes) -> None:
        """Note that threads have told their cluster that they have begun, and what they fenced."""
        self._announced[group.ids] = True
        if self._fenced:
            for thread, cluster in zip(group.ids.tolist(), self._clusters(group.ids), strict=True):
                known = self._fenced.pop(thread, None)
                if known is not None:
                    told = self._told.get(cluster)
                    self._told[cluster] = known if told is None else np.maximum(told, known)

    def _tell(self, ids: np.ndarray) -> None:
        """Let threads know what their clusters were told."""
        clusters = self._clusters(ids)
        for cluster in set(clusters) & set(self._told):
            own = ids[np.array(clusters) == cluster]
            self.machine.observer.learn(self.machine, own, self._told.pop(cluster))

    def _clusters(self, ids: np.ndarray) -> list[int]:
        return (self.machine.block_of[ids] // self.machine.kernel.cluster).tolist()

    def _check_announced(self, group: Lanes) -> None:
        silent = ~self._announced[group.ids]
        if silent.any():
            raise self.machine.fault(
                DeadlockError,
                group,
                silent,
                "waits for its cluster, to which it has not said that it has begun itself",
                "Call cluster_arrive() first, once for each cluster_wait().",
            )
        self._announced[group.ids] = False

    def block_of_cluster(self, group: Lanes, rank: Any) -> np.ndarray:
        """Return the block with a rank in each thread's cluster, whose shared memory is reached.

        Parameters
        ----------
        group : Lanes
        rank : int register

        Returns
        -------
        int64 [n]

        Raises
        ------
        OutOfBoundsError
            If a cluster has no such block.
        RaceError
            If nothing tells that the block has begun, or if it has ended.
        """
        machine = self.machine
        blocks, rank = machine.kernel.cluster, group.vector(rank)
        outside = (rank < 0) | (rank >= blocks)
        if outside.any():
            raise machine.fault(
                OutOfBoundsError,
                group,
                outside,
                f"reaches for block {rank[outside][0]} of a cluster of {blocks}",
                f"Give a rank from 0 to {blocks - 1}.",
            )
        mine = machine.block_of[group.ids]
        other = mine - mine % blocks + rank
        ended = machine.exited_of_block[other] == machine.threads_per_block
        for absent, what in ((~self._has_begun[other], "may not have begun"), (ended, "has ended")):
            if absent.any():
                raise machine.fault(
                    RaceError,
                    group,
                    absent,
                    f"reaches for the shared memory of a block of its cluster that {what}",
                    "Let the blocks of the cluster meet at a barrier before, and after.",
                )
        return other

    def waiting_groups(self) -> list[Lanes]:
        """Return the groups that wait."""
        return [entry.group for entries in self._waiting.values() for entry in entries]
