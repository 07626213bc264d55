"""Finding races: who touched each element last, and whether anything orders that before this.

Two accesses race if they touch the same memory, come from different threads, one of them writes,
not both are atomic, and nothing orders them. It does not matter which came first in this run: a
race is found whatever the schedule. As NVIDIA's racecheck does, two threads that write the same
value are let pass.
"""

from typing import Any

import numpy as np

from llm_numba.simulator.order import Knowledge

NOBODY = -1


class Shadow:
    """The last accesses to each element of a buffer.

    Of the writers the last is enough: whoever races with an earlier one has raced with it. Of the
    readers three are kept: two of those that read last, and one that nothing orders before them. A
    reader that comes before a later one can be forgotten: who is ordered behind the later one is
    ordered behind both.
    """

    def __init__(self, cells: int) -> None:
        self.writer = np.full(cells, NOBODY, np.int64)
        self.write_tick = np.zeros(cells, np.int32)
        self.write_place = np.zeros(cells, np.int32)
        self.write_atomic = np.zeros(cells, bool)
        self.readers = np.full((3, cells), NOBODY, np.int64)
        self.read_ticks = np.zeros((3, cells), np.int32)
        self.read_places = np.zeros((3, cells), np.int32)

    def __len__(self) -> int:
        return len(self.writer)

    def split(self, factor: int) -> None:
        """Give each element several, when the buffer turns out to hold smaller ones."""
        for name in ("writer", "write_tick", "write_place", "write_atomic"):
            setattr(self, name, np.repeat(getattr(self, name), factor))
        for name in ("readers", "read_ticks", "read_places"):
            setattr(self, name, np.repeat(getattr(self, name), factor, axis=1))


class Conflict:
    """A race: which access of the group, and what it races with."""

    def __init__(self, mine: np.ndarray, other: np.ndarray, place: int, kind: str) -> None:
        self.mine = mine
        self.other = other
        self.place = place
        self.kind = kind


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
    kind : {"load", "store", "atomic"}
    changes : bool [n] or None
        Of a store: where the value differs from what the memory holds.
    """
    writer = shadow.writer[cells]
    suspect = (writer != NOBODY) & (writer != threads)
    if kind == "atomic":
        suspect &= ~shadow.write_atomic[cells]
    if changes is not None:
        suspect &= changes
    if suspect.any():
        found = _unordered(knowledge, threads, writer, shadow.write_tick[cells], suspect)
        if len(found):
            place = int(shadow.write_place[cells[found[0]]])
            same = found[shadow.write_place[cells[found]] == place]
            return Conflict(same, writer[same], place, "write")
    if kind == "load":
        return None
    for readers, ticks, places in zip(
        shadow.readers, shadow.read_ticks, shadow.read_places, strict=True
    ):
        reader = readers[cells]
        suspect = (reader != NOBODY) & (reader != threads)
        if changes is not None:
            suspect &= changes
        if suspect.any():
            found = _unordered(knowledge, threads, reader, ticks[cells], suspect)
            if len(found):
                place = int(places[cells[found[0]]])
                same = found[places[cells[found]] == place]
                return Conflict(same, reader[same], place, "read")
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
    shadow.write_atomic[cells] = kind == "atomic"


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
