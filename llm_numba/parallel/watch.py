"""Waiting for other ranks, and finding out which one keeps everybody.

MPI's own waits spin: they ask again and again, at full speed, whether the message is there. On a
machine with fewer cores than ranks the rank that waits then takes the core from the one that it
waits for. So a wait here spins only for as long as it costs nobody anything: a millisecond if each
rank of the host has a core, otherwise just long enough for a message that is nearly there. Then it
sleeps between questions: an eighth of the time that it has waited already, which makes no wait
longer by more than that.

Nor do MPI's waits end if the other rank never comes. These do, after a time limit, with an error
that names it. Where a rank may wait as long as it likes, for the next prompt of a user, there is
no limit.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from llm_numba import variables
from llm_numba.errors import ParallelError
from llm_numba.parallel.board import Board, Note, State
from llm_numba.parallel.wording import ranks

LIMIT_VARIABLE = "LLM_NUMBA_STALL_S"
_LIMIT_S = 60.0
# Whoever shares a host with the rank that is late can say more, and speaks first.
_PRECEDENCE_S = 1.0
_SPIN_S = 1e-3
_SPIN_CROWDED_S = 20e-6
_SHORTEST_SLEEP_S = 10e-6
_LONGEST_SLEEP_S = 1e-3


class StallError(ParallelError):
    """A rank was waited for in vain.

    Parameters
    ----------
    cause, remedy : str
        See :class:`~llm_numba.errors.LLMNumbaError`.
    whom : str
        The same for all that waited for the same ranks, so that one of them may speak for all.
    from_afar : bool
        The ranks are on other hosts, where others may know more.
    late : dict of int to int
        Those on this host, by rank, with their processes.
    """

    def __init__(
        self,
        cause: str,
        remedy: str,
        whom: str,
        from_afar: bool = False,
        late: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(cause, remedy)
        self.whom = whom
        self.from_afar = from_afar
        self.late = dict(late or {})


def time_limit() -> float:
    """Return for how many seconds a rank may wait: ``LLM_NUMBA_STALL_S``, or 60.

    Raises
    ------
    ParallelError
        If the variable is no positive number.
    """
    text = variables.read(LIMIT_VARIABLE) or ""
    try:
        limit = float(text or _LIMIT_S)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ParallelError(
            f"{LIMIT_VARIABLE}={text!r} is no time limit.", "Give a number of seconds above 0."
        )
    return limit


class Moving(Protocol):
    """What moves only when it is asked to, as MPI's own messages do."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to be moved."""

    def move(self) -> None:
        """Do what can be done at the moment."""


class Watch:
    """One rank's view of what the others are doing.

    Parameters
    ----------
    rank : int
        Its number in the world.
    hosts : list of str
        By rank, the name of its host.
    board : Board
        The notes of the ranks of this host.
    limit_s : float
        Seconds.
    crowded : bool
        Ranks of this host share cores.

    Attributes
    ----------
    under_way : set of Moving
        What this rank has begun, and carries on whenever it waits. It is removed when it is idle.
    """

    def __init__(
        self, rank: int, hosts: list[str], board: Board, limit_s: float, *, crowded: bool = True
    ) -> None:
        self.rank = rank
        self.hosts = hosts
        self.board = board
        self.limit_s = limit_s
        self._spin_s = _SPIN_CROWDED_S if crowded else _SPIN_S
        self._count = 0
        self._what = "its start"
        self._stalled: StallError | None = None
        self.under_way: set[Moving] = set()
        self.note(State.WORKING)

    def note(self, state: State, what: str | None = None, failure: int = 0) -> None:
        """Write on the board what this rank is doing.

        Parameters
        ----------
        state : State
        what : str, optional
            By default what it was in last.
        failure : int
        """
        self._what = self._what if what is None else what
        note = Note(state, os.getpid(), self._count, time.monotonic(), self._what, failure)
        self.board.write(self.rank, note)

    def carry_on(self) -> None:
        """Move what is under way."""
        for each in tuple(self.under_way):
            each.move()
            if each.is_idle:
                self.under_way.discard(each)

    def wait(
        self,
        done: Callable[[], bool],
        what: str,
        members: Sequence[int],
        *,
        patient: bool = False,
    ) -> None:
        """Wait until a communication is done.

        Parameters
        ----------
        done : callable() -> bool
            Asks MPI, and lets it work.
        what : str
            The communication's name.
        members : sequence of int
            The ranks of the world that take part.
        patient : bool
            Without a time limit.

        Raises
        ------
        StallError
            After the time limit; and at once when it has been raised before: who cleans up must
            not wait for the same rank again.
        """
        if self._stalled:
            raise self._stalled
        self._count += 1
        begin = time.monotonic()
        noted = False
        while not done():
            self.carry_on()
            waited = time.monotonic() - begin
            if waited < self._spin_s:
                continue
            if not noted:
                self.note(State.IDLE if patient else State.WAITING, what)
                noted = True
            if waited > self.limit_s and not patient:
                verdict = self._verdict(what, members)
                if not verdict.from_afar or waited > self.limit_s + _PRECEDENCE_S:
                    self._stalled = verdict
                    raise verdict
            time.sleep(min(max(waited / 8, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S))
        self.note(State.WORKING, what)

    def _verdict(self, what: str, members: Sequence[int]) -> StallError:
        others = [rank for rank in self.board.ranks if rank != self.rank]
        notes = {rank: self.board.read(rank) for rank in others}
        working = [rank for rank, note in notes.items() if note.state is State.WORKING]
        # Who waits for somebody else in turn is not to blame.
        late = [rank for rank in working if rank in members] or working
        far = [rank for rank in members if rank not in self.board.ranks]
        if late:
            seen = "; ".join(
                f"rank {rank} (process {notes[rank].process} on {self.hosts[rank]}) was last in"
                f" {notes[rank].what}, its communication number {notes[rank].count}"
                for rank in late
            )
            cause = f"{ranks(late)} did not come to {what} within {self.limit_s:g} s: {seen}."
            inside = " ".join(f"py-spy dump --pid {notes[rank].process}" for rank in late[:1])
            remedy = f"See what keeps it ({inside}); if it only needs longer, {_longer()}"
        elif far:
            hosts = ", ".join(sorted({self.hosts[rank] for rank in far}))
            cause = f"{what} got no answer from {ranks(far)} ({hosts}) within {self.limit_s:g} s."
            remedy = f"See what they do there; if they only need longer, {_longer()}"
        else:
            places = "; ".join(f"rank {rank} in {note.what}" for rank, note in notes.items())
            cause = (
                f"Ranks wait for each other, for {self.limit_s:g} s now: rank {self.rank} in"
                f" {what}; {places}."
            )
            remedy = "All ranks must call the same operations in the same order."
        processes = {rank: notes[rank].process for rank in late}
        afar = bool(far) and not late
        return StallError(cause, remedy, str(late or far), from_afar=afar, late=processes)


def is_alive(process: int) -> bool:
    """Tell whether there is such a process, and it has not ended.

    Parameters
    ----------
    process : int
    """
    stat = Path(f"/proc/{process}/stat")
    try:
        if Path("/proc/self/stat").exists():
            # Behind the name in brackets: Z has ended, and its parent has not asked for it yet.
            return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
        os.kill(process, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _longer() -> str:
    return f"allow more: {LIMIT_VARIABLE}=SECONDS (mpirun -x {LIMIT_VARIABLE}=SECONDS)."
