"""Copies into shared memory that arrive late: ``cp.async`` and its kin.

On a GPU such bytes arrive at any time between the copy and the wait for it. Here they arrive at the
wait, the latest moment, and until then the place holds garbage that counts as not written: so a
kernel that reads too early does so in every run, and whoever still reads what was there before has
a race with the copy.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_numba.simulator.lanes import Lanes
from llm_numba.simulator.memory import Buffer, View

if TYPE_CHECKING:
    from llm_numba.simulator.machine import Machine

_GARBAGE = 0xFF


@dataclass
class _Copy:
    """One copy of each of some threads.

    Attributes
    ----------
    view : View
        Where it goes.
    ids, group : int [n]
        Whose it is, and in which of the thread's groups.
    cell : int [n, count]
        Places in the buffer's typed array.
    elements : array [n, count]
    """

    view: View
    ids: np.ndarray
    group: np.ndarray
    cell: np.ndarray
    elements: np.ndarray

    def split(self, chosen: np.ndarray) -> "_Copy":
        """Return the copies of some of the threads."""
        parts = (self.ids, self.group, self.cell, self.elements)
        return _Copy(self.view, *(part[chosen] for part in parts))


class Copies:
    """The copies that are under way on a machine."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._groups = np.zeros(machine.threads, np.int64)  # that each thread has committed
        self._pending: list[_Copy] = []

    def begin(self, lanes: Lanes, view: View, index: Any, elements: np.ndarray) -> None:
        """Begin a copy for each thread.

        Parameters
        ----------
        lanes : Lanes
        view : View
        index : int register
            Flat, of the first element.
        elements : array [n, count]
            Of the view's dtype.
        """
        offset, cell = lanes.places(view, index, elements.shape[1])
        garbage = np.full(elements.nbytes, _GARBAGE, np.uint8).view(view.dtype)
        garbage = garbage.reshape(elements.shape)
        if self._machine.watched:
            size = view.dtype.itemsize
            self._machine.observer.access(lanes, "store", view, offset, cell, size, garbage)
            self._machine.observer.forget(view, cell)
        view.buffer.typed(view.dtype)[cell] = garbage
        group = self._groups[lanes.ids]
        self._pending.append(_Copy(view, lanes.ids, group, cell, elements))
        self._machine.progress += 1

    def commit(self, lanes: Lanes) -> None:
        """End a group of each thread."""
        self._groups[lanes.ids] += 1

    def wait(self, lanes: Lanes, groups: int) -> None:
        """Let arrive what belongs to all but a number of each thread's last groups."""
        limit = np.zeros(self._machine.threads, np.int64)
        limit[lanes.ids] = self._groups[lanes.ids] - groups
        still = []
        for copy in self._pending:
            due = copy.group < limit[copy.ids]
            if due.any():
                self._arrive(lanes, copy.split(due))
            if not due.all():
                still.append(copy.split(~due))
        self._pending = still

    def _arrive(self, lanes: Lanes, copy: _Copy) -> None:
        view = copy.view
        if self._machine.watched:
            owners = Lanes(self._machine, copy.ids, [])
            owners.at = lanes.at
            size = view.dtype.itemsize
            self._machine.observer.check(owners, "store", view, copy.cell, size, copy.elements)
        view.buffer.typed(view.dtype)[copy.cell] = copy.elements
        self._machine.progress += 1

    def under_way(self, buffer: Buffer, cell: np.ndarray, itemsize: int) -> bool:
        """Tell whether a copy to one of some places has not arrived."""
        first = np.asarray(cell).reshape(-1) * itemsize
        return any(
            np.isin(first // copy.view.dtype.itemsize, copy.cell).any()
            for copy in self._pending
            if copy.view.buffer is buffer
        )
