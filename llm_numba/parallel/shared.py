"""The path ``mpi-staged`` between GPUs of one host: two copies, and no MPI.

An MPI that moves bytes between two processes copies them once more, or twice, by a processor's
core. Here both ranks see the same memory, and their GPUs copy to it and from it by themselves::

    by MPI      GPU ==> pinned memory --> MPI's own memory --> pinned memory ==> GPU
    by a lane   GPU ==> memory that both ranks have pinned ==> GPU

    ==> a GPU copies     --> a core copies

The lanes are those of :mod:`llm_numba.parallel.lanes`. They move when a rank begins a message, and
whenever it waits for another rank, whatever it waits for (:meth:`.Watch.carry_on`). So two ranks
may both send first, if they begin their messages and wait for them later.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from llm_numba.errors import ParallelError
from llm_numba.parallel.bounce import BounceCommunicator
from llm_numba.parallel.communicator import Transfer
from llm_numba.parallel.lanes import (
    Copies,
    LaneEnd,
    LaneLayout,
    Message,
    ReceivingEnd,
    SendingEnd,
)
from llm_numba.parallel.outbox import Outbox
from llm_numba.parallel.watch import Watch
from llm_numba.parallel.wording import named
from llm_numba.runtime import Array, kind_of

# cudaMemcpyDefault, cudaSuccess, cudaErrorNotReady
_ANY_DIRECTION, _SUCCESS, _NOT_READY = 4, 0, 600


class GPUCopies(Copies):
    """Copies that the GPU makes by itself, on a stream of their own.

    A message waits for its array on the host. If the stream waited, it would keep all other
    messages behind it.
    """

    def __init__(self) -> None:
        import cupy

        self._cuda = cupy.cuda
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def address(self, array: Array) -> int:
        """See :meth:`.Copies.address`."""
        return array.data.ptr

    def when_ready(self) -> Callable[[], bool]:
        """See :meth:`.Copies.when_ready`: what the current stream holds."""
        return self._recorded(self._cuda.get_current_stream())

    def start(self, to: int, source: int, num_bytes: int) -> Callable[[], bool]:
        """See :meth:`.Copies.start`."""
        runtime = self._cuda.runtime
        runtime.memcpyAsync(to, source, num_bytes, _ANY_DIRECTION, self._stream.ptr)
        return self._recorded(self._stream)

    def _recorded(self, stream: Any) -> Callable[[], bool]:
        event = self._cuda.Event(disable_timing=True)
        event.record(stream)
        runtime = self._cuda.runtime

        def has_ended() -> bool:
            # Not `event.done`, to which a GPU that has failed is one that is still at work.
            status = runtime.eventQuery(event.ptr)
            if status not in (_SUCCESS, _NOT_READY):
                raise runtime.CUDARuntimeError(status)
            return status == _SUCCESS

        return has_ended


def pin(lane: LaneEnd, memory: np.ndarray) -> None:
    """Let the GPU copy to shared memory by itself, as long as there is the lane.

    Where that is not allowed the driver copies by way of memory of its own: slowly, and right.

    Parameters
    ----------
    lane : LaneEnd
    memory : uint8 ndarray
        The lane's.
    """
    import cupy

    runtime, address = cupy.cuda.runtime, memory.ctypes.data
    with suppress(runtime.CUDARuntimeError):
        runtime.hostRegister(address, memory.nbytes, 0)
        weakref.finalize(lane, _unpin, runtime, memory)


def _unpin(runtime: Any, memory: np.ndarray) -> None:
    with suppress(Exception):  # the GPU may have failed long since
        runtime.hostUnregister(memory.ctypes.data)


class SharedCommunicator(BounceCommunicator):
    """Ranks of any MPI, whose GPUs' arrays go through shared memory where ranks share a host.

    All else goes as it does there.

    Attributes
    ----------
    layout : LaneLayout
        Of each lane, which takes memory when it is first used.
    carried : str
        The kind of arrays that lanes carry.
    """

    layout = LaneLayout()
    carried = "cuda"

    def __init__(self, mpi: Any, comm: Any, watch: Watch, members: Sequence[int]) -> None:
        super().__init__(mpi, comm, watch, members)
        self._outbox, address = Outbox.create(self.size, self.layout)
        addresses = self._meet("shared memory", address)
        here = [r for r in range(self.size) if r != self.rank and members[r] in watch.board.ranks]
        opened = {rank: Outbox.open(addresses[rank], self.size, self.layout) for rank in here}
        self._inboxes = {rank: box for rank, box in opened.items() if box}
        seen = self._meet("shared memory", set(self._inboxes))
        self._readers = {rank for rank in range(self.size) if self.rank in seen[rank]}
        self._lanes: dict[tuple[type[LaneEnd], int], LaneEnd] = {}

    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array, see :meth:`Communicator.start_send`.

        When it returns, the lane holds as much of the array as it has room for. A message that is
        no longer than that needs nothing more of this rank.
        """
        if kind_of(x) != self.carried or to not in self._readers:
            return super().start_send(x, to)
        self._check_message("send", x, to)
        lane = self._lane(SendingEnd, to)
        message = self._started(lane, x)
        while lane.is_busy:
            self._watch.carry_on()
        return _Sending(self, message, to)

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array, see :meth:`Communicator.start_receive`."""
        if kind_of(out) != self.carried or source not in self._inboxes:
            return super().start_receive(out, source)
        self._check_message("receive", out, source)
        return _Receiving(self, self._started(self._lane(ReceivingEnd, source), out), source)

    def _lane(self, end: type[LaneEnd], other: int) -> LaneEnd:
        """Return this rank's end of the lane to another rank, or from it."""
        if (end, other) not in self._lanes:
            is_mine = end is SendingEnd
            outbox = self._outbox if is_mine else self._inboxes[other]
            memory = outbox.lane(other if is_mine else self.rank)
            self._lanes[end, other] = self._made(end, memory)
        return self._lanes[end, other]

    def _made(self, end: type[LaneEnd], memory: np.ndarray) -> LaneEnd:
        lane = end(memory, self.layout, GPUCopies())
        pin(lane, memory)
        return lane

    def _started(self, lane: LaneEnd, array: Array) -> Message:
        message = lane.start(array)
        self._watch.under_way.add(lane)
        return message

    def _end(self, message: Message, what: str, other: int) -> None:
        """Wait for a message, each piece within the time limit."""
        while not message.is_done:
            self._watch.wait(_next_piece(message), what, [self._members[other]])


def _next_piece(message: Message) -> Callable[[], bool]:
    done = message.done
    return lambda: message.done > done


class _Sending(Transfer):
    def __init__(self, comm: SharedCommunicator, message: Message, to: int) -> None:
        self._comm, self._message, self._to = comm, message, to

    def wait(self) -> Array:
        x = self._message.array
        self._comm._end(self._message, named("send", x), self._to)
        return x


class _Receiving(Transfer):
    def __init__(self, comm: SharedCommunicator, message: Message, source: int) -> None:
        self._comm, self._message, self._source = comm, message, source

    def wait(self) -> Array:
        message, out = self._message, self._message.array
        what = named("receive", out)
        self._comm._end(message, what, self._source)
        if message.sent_bytes != out.nbytes:
            raise ParallelError(
                f"Rank {self._source} sent {message.sent_bytes} bytes, and {what} needs"
                f" {out.nbytes}.",
                "Send and receive the same shape and dtype.",
            )
        return out
