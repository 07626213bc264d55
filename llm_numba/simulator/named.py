"""Named barriers: some threads of a block meet, by a number, and the others go on."""

from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.errors import BarrierDivergenceError
from llm_numba.simulator.lanes import WARP, Lanes

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

NUMBERS = 16  # of a block; ``cuda.syncthreads()`` is 0
_STOPPED = -1


class NamedBarriers:
    """Who waits at which barrier of its block."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._waiting: dict[int, list[tuple[Lanes, int, int]]] = {}

    def arrive(self, group: Lanes, after: int, number: Any, threads: Any) -> int:
        """Let a group wait until as many threads are there as each of them names.

        Parameters
        ----------
        group : Lanes
        after : int
            Where the program goes on.
        number, threads : int register

        Returns
        -------
        int
            -1: whoever may go on is added to the machine anew.
        """
        machine = self._machine
        machine.progress += 1
        number, threads = group.vector(number), group.vector(threads)
        wrong = (number < 1) | (number >= NUMBERS) | (threads < 1) | (threads % WARP != 0)
        self._refuse(
            group, wrong, "meets others at a barrier that cannot be",
            f"Give a number from 1 to {NUMBERS - 1}, and whole warps as the threads that meet.",
        )  # fmt: skip
        places = machine.block_of[group.ids] * NUMBERS + number
        for place in np.unique(places).tolist():
            chosen = np.flatnonzero(places == place)
            part = group.subset(chosen, machine.kernel.live[after])
            entries = self._waiting.setdefault(place, [])
            entries.append((part, after, int(threads[chosen[0]])))
            here = sum(each.n for each, _, _ in entries)
            agreed = {int(count) for count in threads[chosen]} | {each[2] for each in entries}
            self._refuse(
                group, (places == place) & (len(agreed) > 1 or here > max(agreed)),
                f"meets others at barrier {place % NUMBERS}, for which {sorted(agreed)} threads "
                f"were named and {here} have come",
                "Name the same number of threads everywhere, all that come and no others.",
            )  # fmt: skip
            if agreed == {here}:
                self._release(self._waiting.pop(place))
        return _STOPPED

    def _release(self, entries: list[tuple[Lanes, int, int]]) -> None:
        machine = self._machine
        ids = np.sort(np.concatenate([group.ids for group, _, _ in entries]))
        lanes_here = np.bincount(machine.warp_of[ids])
        for group, _, _ in entries:
            self._refuse(
                group, lanes_here[machine.warp_of[group.ids]] < WARP,
                "meets others at a barrier of whole warps, and some lanes of its own do not come",
                "Let all lanes of a warp reach the barrier, or none.",
            )  # fmt: skip
        if machine.observer is not None:
            machine.observer.barrier(machine, ids, "block")
        for group, after, _ in entries:
            machine.add(group, after)

    def _refuse(self, group: Lanes, wrong: np.ndarray, what: str, remedy: str) -> None:
        if wrong.any():
            raise self._machine.fault(BarrierDivergenceError, group, wrong, what, remedy)

    def waiting_groups(self) -> list[Lanes]:
        """Return the groups that wait."""
        return [group for entries in self._waiting.values() for group, _, _ in entries]
