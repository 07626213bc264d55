"""Barriers in shared memory that count arrivals and bytes: ``mbarrier``.

What stands in their 8 bytes is the hardware's secret; here each has a state beside the memory, and
the memory only tells that somebody made it one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.errors import (
    DeadlockError,
    OutOfBoundsError,
    UninitializedReadError,
)
from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.memory import View

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine


@dataclass
class MBarrier:
    """One barrier.

    Attributes
    ----------
    arrivals : int
        Of a phase.
    missing : int
        How many of them are to come.
    num_bytes : int
        Announced and not here yet; less than 0 if they came first.
    phases : int
        That are complete.
    gathered, passed : array or None
        What those knew who arrived in this phase, and in the ones before.
    """

    arrivals: int
    missing: int
    num_bytes: int = 0
    phases: int = 0
    gathered: np.ndarray | None = None
    passed: np.ndarray | None = None

    def gather(self, known: np.ndarray | None) -> None:
        """Add what a thread knew when it arrived."""
        if known is not None:
            self.gathered = known if self.gathered is None else np.maximum(self.gathered, known)


class MBarriers:
    """The mbarriers of the resident blocks, by their places in shared memory."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._states: dict[int, MBarrier] = {}

    def init(self, lanes: Lanes, view: View, index: Any, arrivals: Any) -> None:
        """Make a barrier for each thread."""
        lanes.store(view, index, np.uint64(0))
        cells, counts = self._cells(lanes, view, index), lanes.vector(arrivals)
        wrong = counts < 1
        if wrong.any():
            raise self._machine.fault(
                OutOfBoundsError,
                lanes,
                wrong,
                f"makes a barrier of {view.name} for {counts[wrong][0]} arrivals",
                "At least one thread must arrive.",
            )
        for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
            self._states[cell] = MBarrier(count, count)

    def arrive(
        self, lanes: Lanes, view: View, index: Any, num_bytes: Any, block: Any = None
    ) -> None:
        """Let each thread arrive, and announce bytes; at the barrier of a block, if it is named."""
        states = self.find(lanes, view, index, block)
        announced = lanes.vector(num_bytes)
        observer = self._machine.observer
        for place in self._machine.order_of(lanes.n).tolist():
            state = states[place]
            if state.missing == 0:
                raise self._machine.fault(
                    DeadlockError,
                    lanes,
                    np.arange(lanes.n) == place,
                    f"arrives at {view.name} once more than its {state.arrivals} arrivals of a "
                    "phase, before the bytes of that phase have come",
                    "Wait for the phase before this one; or make the barrier for more arrivals.",
                )
            if observer is not None:
                state.gather(observer.publish(self._machine, lanes.ids[place]))
            state.num_bytes += int(announced[place])
            state.missing -= 1
            self.complete(state)
        self._machine.progress += 1

    def complete(self, state: MBarrier) -> None:
        """Begin the next phase if nothing is missing in this one."""
        if state.missing == 0 and state.num_bytes == 0:
            state.phases += 1
            state.missing = state.arrivals
            state.passed = state.gathered
            self._machine.progress += 1

    def test(self, lanes: Lanes, view: View, index: Any, parity: Any) -> np.ndarray:
        """Tell each thread whether the phase of a parity is complete."""
        states = self.find(lanes, view, index)
        waited = lanes.vector(parity) & 1
        done = np.array([state.phases & 1 for state in states]) != waited
        observer = self._machine.observer
        if observer is not None and done.any():
            # Threads that wait at one barrier learn the same.
            for state in {id(each): each for each in np.array(states)[done]}.values():
                same = np.array([each is state for each in states]) & done
                if state.passed is not None:
                    observer.learn(self._machine, lanes.ids[same], state.passed)
        for state in {id(each): each for each in np.array(states)[~done]}.values():
            self._machine.bulk.advance(state)
        return done

    def find(self, lanes: Lanes, view: View, index: Any, block: Any = None) -> list[MBarrier]:
        """Return the barrier of each thread; that of another block, if it is named.

        Raises
        ------
        UninitializedReadError
            If nobody made it one.
        """
        cells = self._cells(lanes, view, index, block)
        missing = np.array([cell not in self._states for cell in cells.tolist()])
        if missing.any():
            raise self._machine.fault(
                UninitializedReadError,
                lanes,
                missing,
                f"takes an element of {view.name} for a barrier that nobody has made one",
                "Let one thread call mbarrier_init, and all others wait at a barrier of the block.",
            )
        if self._machine.watched:
            self._machine.observer.check(lanes, "load", view, cells, 8)
        return [self._states[cell] for cell in cells.tolist()]

    def _cells(self, lanes: Lanes, view: View, index: Any, block: Any = None) -> np.ndarray:
        """Return where the barriers lie in the typed array of shared memory."""
        offset = view.ravel().locate(lanes, index)[0]
        return lanes.vector(lanes.cells(view.buffer, offset, 8, block))
