"""Loops that wait for another thread, and how to tell that they wait in vain."""

from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.memory import View

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

_IDLE_ROUNDS = 100
_ROUNDS_A_THREAD = 8


class Spinning:
    """Counts rounds of waiting loops in which nothing changed: no memory, no register.

    A thread that waits with a bound, or searches an array, changes a register in each round. Once
    every thread has gone round several times without any change, none ever will.

    Attributes
    ----------
    idle : int
        The last round in which something changed, and those after it.
    """

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self.idle = 0
        self._progress = -1
        self._seen = np.zeros(machine.threads, np.uint64)

    def in_vain(self, group: Lanes) -> bool:
        """Note another round of a group's loop; tell whether all rounds are in vain."""
        machine = self._machine
        seen = _signature(group, machine.kernel.live[group.pc])
        if self._progress != machine.progress or (self._seen[group.ids] != seen).any():
            self.idle = 0
        self._seen[group.ids] = seen
        self._progress = machine.progress
        self.idle += 1
        return self.idle > _IDLE_ROUNDS + _ROUNDS_A_THREAD * np.count_nonzero(machine.alive)


def _signature(group: Lanes, live: tuple[int, ...]) -> np.ndarray:
    """Return a number for each thread that changes when its registers do."""
    signature = np.zeros(group.n, np.uint64)
    for register in live:
        for number in _numbers(group.R[register]):
            bits = np.asarray(number).astype(np.float64).view(np.uint64)
            signature = signature * np.uint64(1000003) + bits
    return signature


def _numbers(value: Any) -> list[Any]:
    """Return the numbers in a register."""
    if isinstance(value, tuple):
        return [number for part in value for number in _numbers(part)]
    return [value] if hasattr(value, "dtype") and not isinstance(value, View) else []
