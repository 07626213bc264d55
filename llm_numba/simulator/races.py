"""Finding races: who touched each element last, and whether anything orders that before this.

Two accesses race if they touch the same memory, come from different threads, one of them writes,
not both are atomic for each other, and nothing orders them. It does not matter which came first in
this run, or whether any harm was done. As NVIDIA's racecheck does, two threads that write the same
value are let pass. How much of the past is remembered, :class:`Shadow` says.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_numba.simulator.order import Knowledge

NOBODY = -1
# Atomic accesses, and how far they are: for other threads of the same device, or of all devices.
DEVICE, SYSTEM = 1, 2
SCOPE = {
    "atomic": DEVICE,
    "acquire": DEVICE,
    "release": DEVICE,
    "acquire.sys": SYSTEM,
    "release.sys": SYSTEM,
    "load.relaxed.sys": SYSTEM,
    "store.relaxed.sys": SYSTEM,
}
READS = ("load", "acquire", "acquire.sys", "load.relaxed.sys")
# In place of a scope: written by the copy engine, see Knowledge.is_fenced.
ASYNC = -1


class Shadow:
    """The last accesses to each element of a buffer.

    Of the writers the last is kept. One before it is ordered before it, or has raced with it
    already, unless both were atomic or wrote the same value. Of the readers three are kept: two of
    those that read last, and one that nothing orders before them. A reader that comes before a
    later one can be forgotten: who is ordered behind the later one is ordered behind both.
    """

    def __init__(self, cells: int) -> None:
        self.writer = np.full(cells, NOBODY, np.int64)
        self.write_tick = np.zeros(cells, np.int32)
        self.write_place = np.zeros(cells, np.int32)
        self.write_scope = np.zeros(cells, np.int8)
        self.readers = np.full((3, cells), NOBODY, np.int64)
        self.read_ticks = np.zeros((3, cells), np.int32)
        self.read_places = np.zeros((3, cells), np.int32)

    def split(self, factor: int) -> None:
        """Give each element several, when the buffer turns out to hold smaller ones."""
        for name in ("writer", "write_tick", "write_place", "write_scope"):
            setattr(self, name, np.repeat(getattr(self, name), factor))
        for name in ("readers", "read_ticks", "read_places"):
            setattr(self, name, np.repeat(getattr(self, name), factor, axis=1))


@dataclass(frozen=True)
class Conflict:
    """A race of an access with an earlier one.

    Attributes
    ----------
    thread, other : int
        Who makes the access, and who made the earlier one; numbered through the whole grid.
    place : int
        Where the other stood.
    kind : {"write", "read"}
        What the other did.
    """

    thread: int
    other: int
    place: int
    kind: str


def find_race(
    shadow: Shadow,
    knowledge: Knowledge,
    threads: np.ndarray,
    cells: np.ndarray,
    kind: str,
    changes: np.ndarray | None,
) -> Conflict | None:
    """Look for an earlier access that nothing orders before this one.

    Parameters
    ----------
    shadow : Shadow
    knowledge : Knowledge
    threads, cells : int [n]
    kind : {"load", "store", "async"} or one of SCOPE
        The latter are atomic; "async" is a store by the copy engine.
    changes : bool [n] or None
        Of a store: where the value differs from what the memory holds.
    """
    tables = [("write", shadow.writer, shadow.write_tick, shadow.write_place)]
    if kind not in READS:
        readers = zip(shadow.readers, shadow.read_ticks, shadow.read_places, strict=True)
        tables += [("read", *table) for table in readers]
    for did, others, ticks, places in tables:
        other = others[cells]
        suspect = (other != NOBODY) & (other != threads)
        if did == "write" and kind in SCOPE:
            scope = np.minimum(shadow.write_scope[cells], SCOPE[kind])
            suspect &= scope < np.where(knowledge.are_apart(threads, other), SYSTEM, DEVICE)
        if changes is not None:
            suspect &= changes
        if suspect.any():
            found = _unordered(knowledge, threads, other, ticks[cells], suspect)
            if len(found):
                first = found[0]
                place = places[cells[first]]
                return Conflict(int(threads[first]), int(other[first]), int(place), did)
    return None


def _unordered(
    knowledge: Knowledge, threads: np.ndarray, others: np.ndarray, ticks: np.ndarray, suspect: Any
) -> np.ndarray:
    chosen = np.flatnonzero(suspect)
    known = knowledge.knows(threads[chosen], others[chosen], ticks[chosen])
    return chosen[~known]


def record(
    shadow: Shadow,
    knowledge: Knowledge,
    threads: np.ndarray,
    cells: np.ndarray,
    kind: str,
    place: int,
) -> None:
    """Note an access for those that come after."""
    ticks = knowledge.clock[threads - knowledge.first]
    if kind == "load":
        _keep_unordered(shadow, knowledge, threads, cells)
        tables = (shadow.readers, shadow.read_ticks, shadow.read_places)
        values = (threads, ticks, np.full(len(threads), place, np.int32))
        for table, value in zip(tables, values, strict=True):
            # Where several threads read one element the last stays here, and the first there.
            table[0][cells] = value
            table[1][cells[::-1]] = value[::-1]
        return
    shadow.writer[cells] = threads
    shadow.write_tick[cells] = ticks
    shadow.write_place[cells] = place
    shadow.write_scope[cells] = ASYNC if kind == "async" else SCOPE.get(kind, 0)


def _keep_unordered(
    shadow: Shadow, knowledge: Knowledge, threads: np.ndarray, cells: np.ndarray
) -> None:
    """Move a last reader aside if nothing orders it before the threads that read now."""
    last = shadow.readers[0][cells]
    suspect = (last != NOBODY) & (last != threads)
    if suspect.any():
        apart = _unordered(knowledge, threads, last, shadow.read_ticks[0][cells], suspect)
        for table in (shadow.readers, shadow.read_ticks, shadow.read_places):
            table[2][cells[apart]] = table[0][cells[apart]]
