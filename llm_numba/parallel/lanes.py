"""Messages from one process to another, in pieces, through memory that both of them see.

A *lane* leads one way between two ranks of a host. It is a ring of slots, and two counters::

    sender's array       | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
                                               | copies piece 5
                                               v
    slots                            | 4 | 5 | 2 | 3 |        written = 5     taken = 2
                                               | copies piece 2
                                               v
    receiver's array                 | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |

Piece k lies in slot k modulo the number of slots. The sender alone counts what is written, the
receiver alone what is taken. So neither needs a lock: the sender fills a slot when
``begun - taken`` is less than the number of slots, the receiver empties one when ``written`` is
more than it has begun. A count is raised when its copy has ended, and not before. While one slot is
filled another is emptied, and a message takes little longer than the slower of its two copies.

Nothing here waits. Each rank calls :meth:`LaneEnd.move` as often as it can, and that does what can
be done at the moment. How a piece is copied is somebody else's affair (:class:`Copies`): GPUs do so
by themselves, while both ranks do other things.

The order of stores is the processors'. Those of x86 keep the one in which a program writes. The
others are kept in order by the driver, which is asked whether a copy has ended, before a count is
raised, and asked for the next copy, after a count was read.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm_numba.runtime import Array

# A page, so that slots begin at one. Both counters have a line of the cache of their own.
_HEADER_BYTES = 4096
_LINE = 64 // 8
_LENGTHS = 2 * _LINE


@dataclass(frozen=True)
class LaneLayout:
    """How a lane's memory is divided: a header, then slots.

    Attributes
    ----------
    slots : int
        At most 496.
    piece_bytes : int
        Of each slot. GPUs copy small pieces slowly.
    """

    slots: int = 8
    piece_bytes: int = 2 << 20

    @property
    def num_bytes(self) -> int:
        """Of a lane, in whole pages."""
        return _HEADER_BYTES + -(-self.slots * self.piece_bytes // _HEADER_BYTES) * _HEADER_BYTES

    @property
    def room_bytes(self) -> int:
        """How much a lane takes before the receiver has taken anything."""
        return self.slots * self.piece_bytes

    def pieces(self, num_bytes: int) -> int:
        """Return in how many pieces a message goes; an empty one, too, must be told of."""
        return max(1, math.ceil(num_bytes / self.piece_bytes))


class Copies(ABC):
    """How a rank copies pieces between its arrays and memory that it shares."""

    @abstractmethod
    def address(self, array: Array) -> int:
        """Return where an array lies."""

    @abstractmethod
    def when_ready(self) -> Callable[[], bool]:
        """Return what tells whether all has ended that the rank has queued until now."""

    @abstractmethod
    def start(self, to: int, source: int, num_bytes: int) -> Callable[[], bool]:
        """Begin a copy between two addresses.

        Parameters
        ----------
        to, source : int
        num_bytes : int
            Above 0.

        Returns
        -------
        callable() -> bool
            Whether it has ended. Copies end in the order in which they were begun.
        """


class Message:
    """An array on its way, seen from one end.

    Parameters
    ----------
    array : array
        C-contiguous; kept until its pieces are copied.
    address : int
        Where it lies.
    is_ready : callable() -> bool
        Whether nothing that was queued before uses it any more.

    Attributes
    ----------
    sent_bytes : int or None
        Of the message; a receiver does not know it before it begins. If it is another number than
        the array's, nothing is copied.
    done : int
        Pieces that this end is done with.
    is_done : bool
        It is done with all of them.
    """

    def __init__(self, array: Array, address: int, is_ready: Callable[[], bool]) -> None:
        self.array, self.address, self.is_ready = array, address, is_ready
        self.sent_bytes: int | None = None
        self.begun = self.done = 0
        self.is_done = False


class LaneEnd(ABC):
    """One end of a lane; messages pass it in the order in which they were begun.

    Parameters
    ----------
    memory : uint8 ndarray
        The lane's, of ``layout.num_bytes``; zeros at first.
    layout : LaneLayout
        The same at both ends.
    copies : Copies
    """

    def __init__(self, memory: np.ndarray, layout: LaneLayout, copies: Copies) -> None:
        self._layout, self._copies = layout, copies
        header = memory[:_HEADER_BYTES].view(np.int64)
        self._written, self._taken = header[:1], header[_LINE:][:1]
        self._lengths = header[_LENGTHS:][: layout.slots]
        self._slots = memory[_HEADER_BYTES:].ctypes.data
        self._begun = 0
        self._waiting: deque[Message] = deque()  # pieces of these were not begun yet
        self._copying: deque[tuple[Callable[[], bool], Message]] = deque()

    def start(self, array: Array) -> Message:
        """Begin a message.

        Parameters
        ----------
        array : array
            C-contiguous.
        """
        message = Message(array, self._copies.address(array), self._copies.when_ready())
        self._waiting.append(message)
        self.move()
        return message

    def move(self) -> None:
        """Do what can be done at the moment: count copies that have ended, and begin others."""
        while self._copying and self._copying[0][0]():
            _, message = self._copying.popleft()
            message.done += 1
            message.is_done = message.done == self._layout.pieces(message.sent_bytes)
            self._count()
        while self._waiting and self._is_open():
            message = self._waiting[0]
            if message.begun == 0:
                if not message.is_ready():
                    return
                self._meet(message, self._begun % self._layout.slots)
            self._begin_piece(message)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to be done, now or later."""
        return not self._waiting and not self._copying

    @property
    def is_busy(self) -> bool:
        """Whether this rank itself is what the next piece waits for, and not the other one."""
        return bool(self._copying or (self._waiting and self._is_open()))

    def _begin_piece(self, message: Message) -> None:
        slot = self._begun % self._layout.slots
        there = self._slots + slot * self._layout.piece_bytes
        begin = message.begun * self._layout.piece_bytes
        num_bytes = min(self._layout.piece_bytes, message.array.nbytes - begin)
        if num_bytes > 0 and message.sent_bytes == message.array.nbytes:
            ends = self._ends(there, message.address + begin)
            ended = self._copies.start(*ends, num_bytes)
        else:
            ended = _at_once
        self._copying.append((ended, message))
        self._begun += 1
        message.begun += 1
        if message.begun == self._layout.pieces(message.sent_bytes):
            self._waiting.popleft()

    @abstractmethod
    def _is_open(self) -> bool:
        """Whether a slot is there for the next piece."""

    @abstractmethod
    def _meet(self, message: Message, slot: int) -> None:
        """Say, or read, at the first piece's slot how many bytes are sent."""

    @abstractmethod
    def _ends(self, slot: int, array: int) -> tuple[int, int]:
        """Put two addresses in the order of a copy: to, source."""

    @abstractmethod
    def _count(self) -> None:
        """Tell the other end of a copy that has ended."""


class SendingEnd(LaneEnd):
    """Where messages enter; see the other."""

    def _is_open(self) -> bool:
        return self._begun - int(self._taken[0]) < self._layout.slots

    def _meet(self, message: Message, slot: int) -> None:
        self._lengths[slot] = message.sent_bytes = message.array.nbytes

    def _ends(self, slot: int, array: int) -> tuple[int, int]:
        return slot, array

    def _count(self) -> None:
        self._written += 1


class ReceivingEnd(LaneEnd):
    """Where messages leave; see the other."""

    def _is_open(self) -> bool:
        return int(self._written[0]) > self._begun

    def _meet(self, message: Message, slot: int) -> None:
        message.sent_bytes = int(self._lengths[slot])

    def _ends(self, slot: int, array: int) -> tuple[int, int]:
        return array, slot

    def _count(self) -> None:
        self._taken += 1


def _at_once() -> bool:
    return True
