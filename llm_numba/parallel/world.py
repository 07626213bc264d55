"""All ranks that were started together, and their common beginning and end."""

import atexit
import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from llm_numba.parallel.board import Board, State
from llm_numba.parallel.faults import end_all, guard
from llm_numba.parallel.launch import start_mpi
from llm_numba.parallel.stacks import end_within, show_when_asked
from llm_numba.parallel.staged import StagedCommunicator
from llm_numba.parallel.watch import StallError, Watch

# What the end may take besides: a driver returns a GPU's memory, MPI takes its leave.
_LEAVE_S = 5.0

_world: "World | None" = None


class World:
    """The ranks of MPI.

    Parameters
    ----------
    wanted : int
        How many there should be; for messages.
    limit_s : float
        For how many seconds one may wait for another.

    Attributes
    ----------
    communicator : StagedCommunicator
        All of them.
    watch : Watch

    Raises
    ------
    DependencyError
        If mpi4py is not installed.
    ParallelError
        If it finds no MPI, or not the ranks that were launched.
    """

    def __init__(self, wanted: int, limit_s: float) -> None:
        self._mpi = start_mpi(wanted)
        everybody = self._mpi.COMM_WORLD
        rank = everybody.Get_rank()
        hosts = everybody.allgather(_host())
        members = [other for other, host in enumerate(hosts) if host == hosts[rank]]
        board = _shared_board(everybody, members)
        # mpirun may have given each rank one core, and all of them together enough.
        cores = everybody.allgather(_cores())
        crowded = len(set().union(*(cores[member] for member in members))) < len(members)
        names = [name for name, _ in hosts]
        self.watch = Watch(rank, names, board, limit_s, crowded=crowded)
        self.communicator = StagedCommunicator(
            self._mpi, everybody.Dup(), self.watch, range(everybody.Get_size())
        )
        if everybody.Get_size() == 1:
            return  # which ends as programs do
        show_when_asked()
        everybody.Barrier()
        guard(self.watch)
        sys.excepthook = self._end_by
        # What comes after this, MPI's own end and the driver's, waits without limit.
        atexit.register(self._meet_at_the_end)

    def end_all(self, error: BaseException) -> None:
        """End all ranks because of an exception of this one; return if it is the only one.

        Parameters
        ----------
        error : BaseException
        """
        if self.communicator.size > 1:
            end_all(self._mpi, self.watch, error)

    def _end_by(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        self.end_all(error)

    def _meet_at_the_end(self) -> None:
        request = self._mpi.COMM_WORLD.Ibarrier()
        others = range(self.communicator.size)
        try:
            self.watch.wait(request.Test, "the end of the program", others)
        except StallError as error:
            self.end_all(error)
        self.watch.note(State.ENDED, "the end of the program")
        end_within(self.watch.limit_s + _LEAVE_S)


def start_world(wanted: int, limit_s: float) -> World:
    """Return the one world of this program, started when first asked for.

    Parameters
    ----------
    wanted, limit_s
        See :class:`World`. The time limit is the last one that was given.
    """
    global _world
    if _world is None:
        _world = World(wanted, limit_s)
    _world.watch.limit_s = limit_s
    return _world


def end_world(error: BaseException) -> None:
    """End all ranks because of an exception of this one; return if it is the only one.

    Parameters
    ----------
    error : BaseException
    """
    if _world is not None:
        _world.end_all(error)


def _host() -> tuple[str, str]:
    """Return this host's name, and what tells it from others that were given the same one."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname(), boot.read_text().strip() if boot.exists() else ""


def _cores() -> set[int]:
    """Return the cores that this program may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _shared_board(everybody: Any, members: list[int]) -> Board:
    """Make the board of this host: its first rank does, the others open it.

    MPI could say who shares a host (``Split_type``). But what it goes by is the launcher's word,
    and a wait in it has no end.
    """
    rank = everybody.Get_rank()
    mine = Board.create(len(members)) if rank == members[0] else None
    path = everybody.allgather(mine)[members[0]]
    try:
        board = Board(path, members)
    except OSError:  # a container of its own, with a /dev/shm of its own
        board = None
    opened = everybody.allgather(board is not None)
    if mine:
        mine.unlink()
    if board is None or not all(opened[member] for member in members):
        path = Board.create(1)
        board = Board(path, [rank])
        path.unlink()
    return board
