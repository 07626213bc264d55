"""Ranks as threads of one process: for tests, notebooks and the simulator.

They go through the same calls as ranks of MPI, and make the same mistakes. What MPI forgives as
long as a message is small, this communicator does not: a send waits for its receive. And since one
process sees all ranks, it need not wait for a time limit to know that all of them wait for ever.
"""

import contextvars
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from llm_numba.errors import ParallelError
from llm_numba.parallel.communicator import Communicator, Transfer
from llm_numba.parallel.wording import named, ranks
from llm_numba.runtime import Array, to_host, write_to

T = TypeVar("T")

# How long those that wait need to hear of a failure; whoever computes longer is left behind.
_GRACE_S = 2.0


def run_ranks(
    count: int, function: Callable[[Communicator], T], *, limit_s: float = 60.0
) -> list[T]:
    """Run a function as several ranks, a thread each.

    Parameters
    ----------
    count : int
        P.
    function : callable(communicator) -> T
        What each rank does. Context variables are as the caller has them.
    limit_s : float
        For how many seconds a rank may wait for another.

    Returns
    -------
    list of T
        What each rank returned, rank 0's first.

    Raises
    ------
    ParallelError
        If a rank waits for longer, naming those it waits for; at once if all ranks wait for each
        other; or if ranks call different operations.
    Exception
        The first that a rank raised. The others end at their next communication.
    """
    session = _Session(count, limit_s)
    group = _Group(session, list(range(count)))
    results: list[Any] = [None] * count

    def run(rank: int) -> None:
        try:
            results[rank] = function(ThreadCommunicator(group, rank))
        except BaseException as error:
            session.fail(f"Rank {rank}", error)
        finally:
            session.end(rank)

    threads = [
        # A rank that never returns must not keep the program alive.
        threading.Thread(
            target=contextvars.copy_context().run,
            args=(run, rank),
            name=f"rank {rank}",
            daemon=True,
        )
        for rank in range(count)
    ]
    try:
        for thread in threads:
            thread.start()
        session.wait_for_all()
    except BaseException as error:  # Ctrl-C in the thread that waits
        session.fail("The thread that waits for the ranks", error)
        raise
    if session.failure:
        raise session.failure.error
    return results


@dataclass(frozen=True)
class _Failure:
    who: str
    error: BaseException


@dataclass(frozen=True)
class _Wait:
    """What a rank waits for: whether it is there, and whose turn it is until then."""

    ready: Callable[[], bool]
    missing: Callable[[], list[int]]
    what: str


class _Session:
    """What all ranks of one :func:`run_ranks` share: one lock, and whether one has failed."""

    def __init__(self, count: int, limit_s: float) -> None:
        self.count = count
        self.limit_s = limit_s
        self.changed = threading.Condition()
        self.failure: _Failure | None = None
        self.ended: set[int] = set()
        self.waiting: dict[int, _Wait] = {}

    def fail(self, who: str, error: BaseException) -> None:
        with self.changed:
            self.failure = self.failure or _Failure(who, error)
            self.changed.notify_all()

    def end(self, rank: int) -> None:
        with self.changed:
            self.ended.add(rank)
            self.changed.notify_all()

    def wait_for_all(self) -> None:
        """Wait until all ranks have ended; after a failure, not for long."""
        with self.changed:
            self.changed.wait_for(lambda: self.failure or len(self.ended) == self.count)
            self.changed.wait_for(lambda: len(self.ended) == self.count, _GRACE_S)

    def wait_until(
        self,
        ready: Callable[[], bool],
        missing: Callable[[], list[int]],
        what: str,
        rank: int,
        *,
        patient: bool = False,
    ) -> None:
        """Wait, with the lock held, until something is there; end if a rank fails or stalls."""
        end = time.monotonic() + self.limit_s
        self.waiting[rank] = _Wait(ready, missing, what)
        while not ready():
            if self.failure:
                raise ParallelError(
                    f"{self.failure.who} has failed: {self.failure.error!r}.", "Mend that first."
                )
            if gone := [each for each in missing() if each in self.ended]:
                raise ParallelError(
                    f"{ranks(gone)} returned without taking part in {what}.",
                    "All ranks must call the same operations.",
                )
            if self._is_stuck():
                places = "; ".join(
                    f"rank {each} waits for {ranks(wait.missing()).lower()}, in {wait.what}"
                    for each, wait in sorted(self.waiting.items())
                )
                raise ParallelError(
                    f"Ranks wait for each other: {places}.",
                    "Let one of them send while the other receives, or begin with start_send.",
                )
            left = end - time.monotonic()
            if left <= 0 and not patient:
                # Who waits for somebody else in turn is not to blame.
                late = [each for each in missing() if each not in self.waiting] or missing()
                raise ParallelError(
                    f"{ranks(late)} did not come to {what} within {self.limit_s:g} s.",
                    "Look for what keeps it, or allow more time.",
                )
            self.changed.wait(None if patient else left)
        del self.waiting[rank]

    def _is_stuck(self) -> bool:
        """Whether nothing can change any more: all ranks wait, and only for ranks that wait."""
        if len(self.waiting) + len(self.ended) < self.count:
            return False
        return not any(
            wait.ready() or self.ended.intersection(wait.missing())
            for wait in self.waiting.values()
        )


@dataclass
class _Meeting:
    """One collective operation: what each rank has brought, and how many still have to look."""

    what: str
    parcels: dict[int, bytes] = field(default_factory=dict)
    looked: int = 0


@dataclass
class _Message:
    what: str
    values: np.ndarray
    taken: bool = False


class _Group:
    """The meetings and messages of one group of ranks."""

    def __init__(self, session: _Session, world_ranks: list[int]) -> None:
        self.session = session
        self.world_ranks = world_ranks
        self.meetings: dict[int, _Meeting] = {}
        # By sender, receiver, and how many messages the one sent to the other before.
        self.messages: dict[tuple[int, int, int], _Message] = {}
        self.parts: dict[tuple[int, int], _Group] = {}


class ThreadCommunicator(Communicator):
    """One rank of a group of threads, see :func:`run_ranks`.

    Parameters
    ----------
    group : _Group
        What the ranks share.
    rank : int
    """

    name = "threads"

    def __init__(self, group: _Group, rank: int) -> None:
        self.rank = rank
        self.size = len(group.world_ranks)
        self._group = group
        self._calls = 0
        self._sends: Counter[int] = Counter()
        self._receives: Counter[int] = Counter()

    def split(self, colour: int) -> "ThreadCommunicator":
        """Form smaller groups, see :meth:`Communicator.split`."""
        colours = self._meet("split", colour)
        members = [rank for rank, each in enumerate(colours) if each == colour]
        shared = self._group
        with shared.session.changed:
            # The first of a group to come makes it; `calls` tells one split from the next.
            group = shared.parts.setdefault(
                (self._calls, colour),
                _Group(shared.session, [shared.world_ranks[rank] for rank in members]),
            )
        return ThreadCommunicator(group, members.index(self.rank))

    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array, see :meth:`Communicator.start_send`."""
        self._check_message("send", x, to)
        message = _Message(named("message", x), to_host(x))
        with self._group.session.changed:
            self._group.messages[self.rank, to, self._sends[to]] = message
            self._group.session.changed.notify_all()
        self._sends[to] += 1
        return _Sending(self._group, message, x, (self.rank, to))

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array, see :meth:`Communicator.start_receive`."""
        self._check_message("receive", out, source)
        key = source, self.rank, self._receives[source]
        self._receives[source] += 1
        return _Receiving(self._group, key, out)

    def _tell(self, value: Any, root: int, patient: bool) -> Any:
        mine = value if self.rank == root else None
        # The one that tells may be idle; it need not be patient with those that are told.
        patient = patient and self.rank != root
        return self._meet(f"tell from rank {root}", mine, patient)[root]

    def finish_telling(self) -> None:
        """Do nothing: who tells has met those that hear."""

    def _meet(self, what: str, value: Any, patient: bool = False) -> list[Any]:
        group, session = self._group, self._group.session
        # As over MPI: what one rank does to an object is no business of the others.
        parcel = pickle.dumps(value)
        self._calls += 1
        with session.changed:
            meeting = group.meetings.setdefault(self._calls, _Meeting(what))
            if what != meeting.what:
                raise ParallelError(
                    f"Rank {group.world_ranks[self.rank]} calls {what},"
                    f" another rank {meeting.what}.",
                    "All ranks must call the same operations in the same order.",
                )
            meeting.parcels[self.rank] = parcel
            session.changed.notify_all()
            session.wait_until(
                lambda: len(meeting.parcels) == self.size,
                lambda: [
                    world_rank
                    for rank, world_rank in enumerate(group.world_ranks)
                    if rank not in meeting.parcels
                ],
                what,
                group.world_ranks[self.rank],
                patient=patient,
            )
            meeting.looked += 1
            if meeting.looked == self.size:
                del group.meetings[self._calls]
        return [pickle.loads(meeting.parcels[rank]) for rank in range(self.size)]


class _Sending(Transfer):
    def __init__(self, group: _Group, message: _Message, x: Array, ends: tuple[int, int]) -> None:
        self._group = group
        self._message = message
        self._x = x
        self._ends = ends

    def wait(self) -> Array:
        session = self._group.session
        sender, receiver = (self._group.world_ranks[end] for end in self._ends)
        with session.changed:
            session.wait_until(
                lambda: self._message.taken,
                lambda: [receiver],
                f"the receive of a {self._message.what}",
                sender,
            )
        return self._x


class _Receiving(Transfer):
    def __init__(self, group: _Group, key: tuple[int, int, int], out: Array) -> None:
        self._group = group
        self._key = key
        self._out = out

    def wait(self) -> Array:
        session, messages = self._group.session, self._group.messages
        sender, receiver = (self._group.world_ranks[end] for end in self._key[:2])
        what = named("message", self._out)
        with session.changed:
            session.wait_until(
                lambda: self._key in messages, lambda: [sender], f"the send of a {what}", receiver
            )
            message = messages.pop(self._key)
            if message.what != what:
                raise ParallelError(
                    f"Rank {sender} sent a {message.what}, a {what} was expected.",
                    "Send and receive the same shape and dtype.",
                )
            message.taken = True
            session.changed.notify_all()
        write_to(self._out, message.values)
        return self._out
