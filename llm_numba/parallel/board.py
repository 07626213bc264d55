"""A notice board in shared memory, on which each rank of a host writes what it is doing.

Who waits too long for others reads on it which of them is not waiting itself: that one has
stalled. A rank can be stuck where it answers no message, so its last note must lie where others
can read it without its help. Ranks on other hosts cannot.

The board is a mapped file. A window of MPI's shared memory would serve too, but takes MPI's
one-sided part, which some builds lack or start with a warning on every rank.
"""

import enum
import mmap
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

_TEXT_BYTES = 224
_ROW = struct.Struct(f"=iiqdQ{_TEXT_BYTES}s")  # the fields of a Note
_SHARED_MEMORY = Path("/dev/shm")


class State(enum.IntEnum):
    """What a rank is doing."""

    WORKING = 0  # computes, or does nothing: it is not at a communication
    WAITING = 1
    IDLE = 2  # waits, and may as long as it likes
    ENDED = 3
    FAILED = 4


@dataclass(frozen=True)
class Note:
    """What a rank has written last.

    Attributes
    ----------
    state : State
    process : int
        0 if it has written nothing yet.
    count : int
        How many communications it has begun.
    since : float
        When it wrote this, on the clock of ``time.monotonic``, which a host has one of.
    what : str
        The communication that it is in or was in last.
    failure : int
        Of a rank that has failed, a number that is the same for the same failure.
    """

    state: State
    process: int
    count: int
    since: float
    what: str
    failure: int = 0


class Board:
    """The notes of all ranks of a host.

    Parameters
    ----------
    path : Path
        A file that :meth:`create` has made.
    ranks : list of int
        The ranks of the world that share it, in order.
    """

    def __init__(self, path: Path, ranks: list[int]) -> None:
        self.ranks = ranks
        self._rows = {rank: number * _ROW.size for number, rank in enumerate(ranks)}
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _ROW.size * len(ranks))

    @staticmethod
    def create(num_ranks: int) -> Path:
        """Make an empty board; whoever has mapped it keeps it when the file is removed.

        Parameters
        ----------
        num_ranks : int
        """
        folder = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        handle, name = tempfile.mkstemp(prefix="llm-numba-", dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(_ROW.size * num_ranks))
        return Path(name)

    def write(self, rank: int, note: Note) -> None:
        """Write a rank's note over its last one.

        Parameters
        ----------
        rank : int
        note : Note
            Of `what`, the first 224 bytes are kept.
        """
        numbers = note.state, note.process, note.count, note.since, note.failure
        row = _ROW.pack(*numbers, note.what.encode())
        # Not by `pack_into`, which blanks the row first: whoever looked then would see no process,
        # and take the rank for dead.
        begin = self._rows[rank]
        self._memory[begin : begin + len(row)] = row

    def read(self, rank: int) -> Note:
        """Read a rank's last note.

        Parameters
        ----------
        rank : int
            One of ``ranks``.
        """
        row = _ROW.unpack_from(self._memory, self._rows[rank])
        state, process, count, since, failure, what = row
        text = what.rstrip(b"\0").decode(errors="replace")
        return Note(State(state), process, count, since, text, failure)
