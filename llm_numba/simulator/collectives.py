"""Warp-wide operations, and how lanes of a warp wait for each other at them.

A lane waits until all lanes that its member mask names execute the same operation with the same
mask; since compute capability 7.0 it need not be the same place in the program (PTX ISA,
`shfl.sync`, `vote.sync`, `bar.warp.sync`). That matters more than it seems: CPython 3.12 and later
may compile one call in the source twice, once for each way that leads to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.arithmetic import conform
from llm_numba.simulator.errors import BarrierDivergenceError
from llm_numba.simulator.lanes import WARP, Lanes
from llm_numba.simulator.values import join, take

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

_STOPPED = -1
_ALL = np.int64(0xFFFFFFFF)


@dataclass(frozen=True)
class Operation:
    """A warp-wide operation as the program calls it.

    Attributes
    ----------
    twin : callable
    dtype : dtype or None
        Of the result's register; None if it is no single number.
    whole_warp : bool
        No operand is a mask: all lanes take part.
    """

    twin: Callable[..., Any]
    dtype: np.dtype | None
    whole_warp: bool = False

    def mask(self, operands: tuple[Any, ...]) -> Any:
        """Return which lanes take part, as bits: the first operand, or all."""
        return operands[0] if operands and not self.whole_warp else _ALL

    def __call__(self, lanes: Lanes, operands: tuple[Any, ...]) -> Any:
        """Compute the result for lanes that have come together."""
        result = self.twin(lanes, *operands)
        return result if self.dtype is None else conform(result, self.dtype)


@dataclass
class _Waiting:
    """A group at an operation that some lanes of its masks have not reached."""

    group: Lanes
    operands: tuple[Any, ...]
    after: int
    result: int | None

    def part(self, chosen: np.ndarray, live: Any) -> "_Waiting":
        return _Waiting(
            self.group.subset(chosen, live), take(self.operands, chosen), self.after, self.result
        )


class Collectives:
    """Who waits at which warp-wide operation."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._waiting: dict[Operation, list[_Waiting]] = {}

    def arrive(
        self,
        group: Lanes,
        after: int,
        operation: Operation,
        operands: tuple[Any, ...],
        result: int | None,
    ) -> int:
        """Execute an operation, once all lanes of each warp's mask are there.

        Parameters
        ----------
        group : Lanes
        after : int
            Where the program goes on.
        operation : Operation
        operands : tuple of registers
            The member mask comes first, unless all lanes of the warp take part.
        result : int or None
            Register for what comes out.

        Returns
        -------
        int
            ``after`` if the whole group may go on at once, else -1.
        """
        mask = operation.mask(operands)
        if self._is_complete(group, mask):
            if result is not None:
                group.R[result] = operation(group, operands)
            else:
                operation(group, operands)
            return after
        waiting = self._waiting.setdefault(operation, [])
        waiting.append(_Waiting(group, operands, after, result))
        self._release(operation)
        return _STOPPED

    def _release(self, operation: Operation) -> None:
        machine = self._machine
        # Another warp may be elsewhere in the program, where the operands are other arrays.
        latest = machine.warp_of[self._waiting[operation][-1].group.ids]
        entries, waiting = [], []
        for entry in self._waiting.pop(operation):
            near = np.isin(machine.warp_of[entry.group.ids], latest).any()
            (entries if near else waiting).append(entry)
        groups = [entry.group for entry in entries]
        ids = np.concatenate([group.ids for group in groups])
        order = np.argsort(ids)
        together = Lanes(machine, ids[order], [])
        together.at = groups[-1].at
        operands = join([entry.operands for entry in entries], [group.n for group in groups], order)
        missing = self._missing(together, operation.mask(operands))
        here = missing == 0
        if here.any():
            chosen = np.flatnonzero(here)
            ready = together.subset(chosen, ())
            value = operation(ready, take(operands, chosen))
        for entry in entries:
            live = machine.kernel.live[entry.after]
            free = here[np.searchsorted(together.ids, entry.group.ids)]
            if free.any():
                going = entry.part(np.flatnonzero(free), live).group
                if entry.result is not None:
                    places = np.searchsorted(ready.ids, going.ids)
                    going.R[entry.result] = take(value, places)
                machine.add(going, entry.after)
            if not free.all():
                waiting.append(entry.part(np.flatnonzero(~free), live))
        if waiting:
            self._waiting[operation] = waiting
            self.check_ended()

    def _is_complete(self, group: Lanes, mask: Any) -> bool:
        if group.warps.full and not isinstance(mask, np.ndarray) and mask & _ALL == _ALL:
            return True
        self._check_own_lane(group, mask)
        return not self._missing(group, mask).any()

    def _missing(self, group: Lanes, mask: Any) -> np.ndarray:
        """Return, for each thread, the lanes of its mask that are not in the group, as bits."""
        warps = group.warps
        exists = self._machine.lanes_of_warp[warps.number][warps.row]
        return (_ALL & mask & exists) & ~warps.active[warps.row]

    def _check_own_lane(self, group: Lanes, mask: Any) -> None:
        absent = group.vector(mask) >> group.warps.lane & 1 == 0
        if absent.any():
            raise self._machine.fault(
                BarrierDivergenceError,
                group,
                absent,
                "takes part in a warp-wide operation whose mask leaves its own lane out",
                "Name in the mask the lanes that execute the operation, no more and no fewer.",
            )

    def check_ended(self) -> None:
        """Raise if lanes that others wait for have ended.

        Raises
        ------
        BarrierDivergenceError
        """
        if not self._waiting:
            return
        machine = self._machine
        ended = machine.ended_lanes
        for operation, entries in self._waiting.items():
            ids = np.sort(np.concatenate([entry.group.ids for entry in entries]))
            here = np.zeros(len(machine.lanes_of_warp), np.int64)
            np.bitwise_or.at(here, machine.warp_of[ids], np.left_shift(1, machine.lane_of[ids]))
            for entry in entries:
                warp = machine.warp_of[entry.group.ids]
                mask = operation.mask(entry.operands)
                gone = ended[warp] & mask & ~here[warp]
                if np.any(gone):
                    self._raise_for_ended(entry.group, gone)

    def _raise_for_ended(self, group: Lanes, gone: np.ndarray) -> None:
        lanes = _lane_names(int(gone[np.flatnonzero(gone)[0]]))
        raise self._machine.fault(
            BarrierDivergenceError,
            group,
            gone != 0,
            f"waits in a warp-wide operation for lanes {lanes} of its warp, which have returned",
            "Let all lanes of the mask reach the operation, or leave lanes out of the mask.",
        )

    def waiting_groups(self) -> list[Lanes]:
        """Return the groups that wait."""
        return [entry.group for entries in self._waiting.values() for entry in entries]


def _lane_names(bits: int) -> str:
    lanes = [lane for lane in range(WARP) if bits >> lane & 1]
    if len(lanes) > 2 and lanes == list(range(lanes[0], lanes[-1] + 1)):
        return f"{lanes[0]} to {lanes[-1]}"
    return ", ".join(map(str, lanes))
