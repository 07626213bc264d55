"""MPI between the memories of hosts: the path that works everywhere.

Arrays of the CPU and of the simulator lie in the host's memory, and MPI takes them as they are.
Those of a GPU are copied there first, and back after.

MPI moves bytes here and never adds: it leaves open in which order it adds, knows no bfloat16, and
would round float16 after each addition. Each rank gets the others' numbers and adds them itself, in
the order of ranks::

    few bytes     all_gather of everything, each rank adds all of it: one message each way
    many bytes    rank r gets part r of everybody (all-to-all), adds it, and hands its sum to all
                  (all_gather): two messages, but each number is added once, not P times, and
                  each rank receives 2 (P-1)/P of the array instead of P-1 times the array

All calls are the non-blocking ones, waited for as :mod:`llm_numba.parallel.watch` says.
"""

import pickle
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_numba.errors import ParallelError
from llm_numba.parallel.alone import Alone
from llm_numba.parallel.communicator import Communicator, Transfer
from llm_numba.parallel.watch import Watch
from llm_numba.parallel.wording import named
from llm_numba.reference.rank_sums import Reduction, combine_parts
from llm_numba.runtime import Array, by_host, kind_of, to_host, write_to

# From how many bytes on an all-reduce goes in two steps. Of few bytes a second message costs more
# than it saves.
_TWO_STEPS_BYTES = 512 * 1024
# What a told object may take to travel in one message: its length, then itself.
_PARCEL_BYTES = 4096
_LENGTH_BYTES = 8
# Messages that a root may be ahead of those whom it tells.
_MOST_UNHEARD = 16
_LARGEST_BYTES = 2**31 - 1


class StagedCommunicator(Communicator):
    """Ranks of MPI that exchange arrays through the host's memory.

    Parameters
    ----------
    mpi : module
        ``mpi4py.MPI``.
    comm : mpi4py.MPI.Intracomm
        Used by nobody else.
    watch : Watch
        How to wait.
    members : sequence of int
        By rank of `comm`, the rank in the world.
    """

    name = "mpi-staged"

    def __init__(self, mpi: Any, comm: Any, watch: Watch, members: Sequence[int]) -> None:
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()
        self._mpi = mpi
        self._comm = comm
        self._watch = watch
        self._members = members
        self._told: deque[tuple[Any, np.ndarray]] = deque()  # as root, and perhaps not heard yet

    def split(self, colour: int) -> Communicator:
        """Form smaller groups, see :meth:`Communicator.split`."""
        # MPI's split waits without limit, so it begins when all are there.
        colours = self._meet("split", colour)
        members = [self._members[rank] for rank, each in enumerate(colours) if each == colour]
        alone = len(members) == 1
        comm = self._comm.Split(self._mpi.UNDEFINED if alone else colour, self.rank)
        if alone:
            return Alone()
        return type(self)(self._mpi, comm, self._watch, members)

    def again(self, kind: "type[StagedCommunicator]") -> "StagedCommunicator":
        """Return a communicator of the same ranks whose messages meet none of this one's.

        Parameters
        ----------
        kind : type
            Of the new one.
        """
        # MPI's own waits without limit, so it begins when all are there.
        self._meet("another communicator", None)
        return kind(self._mpi, self._comm.Dup(), self._watch, self._members)

    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array, see :meth:`Communicator.start_send`."""
        self._check_message("send", x, to)
        buffer = _readable(x)
        request = self._comm.Isend([buffer, self._mpi.BYTE], to)
        return SentBytes(self, request, x, to, buffer)

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array, see :meth:`Communicator.start_receive`."""
        self._check_message("receive", out, source)
        buffer = _writable(out)
        request = self._comm.Irecv([buffer, self._mpi.BYTE], source)
        return ReceivedBytes(self, request, out, source, buffer)

    @by_host
    def _all_reduce(self, x: Array, op: Reduction) -> None:
        what = named("all_reduce", x, op)
        mine = _readable(x).view(x.dtype)
        if x.nbytes < _TWO_STEPS_BYTES:
            everything = np.empty((self.size, x.size), x.dtype)
            self._gather(mine, everything, what)
            write_to(x, combine_parts(everything, op).reshape(x.shape))
            return
        ends = [x.size * (rank + 1) // self.size for rank in range(self.size)]
        counts = np.diff(ends, prepend=0)
        parts = np.empty((self.size, counts[self.rank]), x.dtype)
        self._scatter(mine, counts, parts, what)
        total = np.empty(x.size, x.dtype)
        self._gather_parts(combine_parts(parts, op), counts, total, what)
        write_to(x, total.reshape(x.shape))

    @by_host
    def _all_gather(self, x: Array, out: Array) -> None:
        everything = _writable(out)
        self._gather(_readable(x), everything, named("all_gather", x))
        _finish(everything, out)

    @by_host
    def _reduce_scatter(self, x: Array, out: Array) -> None:
        mine = _readable(x).view(x.dtype)
        parts = np.empty((self.size, out.size), x.dtype)
        counts = np.full(self.size, out.size)
        self._scatter(mine, counts, parts, named("reduce_scatter", x))
        write_to(out, combine_parts(parts).reshape(out.shape))

    @by_host
    def _broadcast(self, x: Array, root: int) -> None:
        buffer = _readable(x) if self.rank == root else _writable(x)
        request = self._comm.Ibcast([buffer, self._mpi.BYTE], root)
        self._wait(request, named("broadcast", x, f"from rank {root}"))
        if self.rank != root:
            _finish(buffer, x)

    def _meet(self, what: str, value: Any, patient: bool = False) -> list[Any]:
        mine = np.frombuffer(pickle.dumps(value), np.uint8)
        lengths = np.empty(self.size, np.int64)
        # Whoever is late is late for the first of the two.
        self._gather(np.array([mine.size], np.int64), lengths, what, patient=patient)
        everything = np.empty(lengths.sum(), np.uint8)
        self._gather_parts(mine, lengths, everything, what)
        return [pickle.loads(part) for part in np.split(everything, np.cumsum(lengths)[:-1])]

    def _tell(self, value: Any, root: int, patient: bool) -> Any:
        what = f"tell from rank {root}"
        patient = patient and self.rank != root
        first = np.zeros(_PARCEL_BYTES, np.uint8)
        length = first[:_LENGTH_BYTES].view(np.int64)
        room = _PARCEL_BYTES - _LENGTH_BYTES
        parcel = np.frombuffer(pickle.dumps(value) if self.rank == root else b"", np.uint8)
        length[0] = parcel.size
        first[_LENGTH_BYTES:][: parcel.size] = parcel[:room]
        if self.rank == root:
            self._start_telling(what, root, first, *([parcel] if parcel.size > room else []))
            if parcel.size > room:
                # It moves only while this rank waits for it, and next that may compile for long, or
                # launch what waits for the others on the GPU.
                self.finish_telling()
            return pickle.loads(parcel)
        self._wait(self._comm.Ibcast([first, self._mpi.BYTE], root), what, patient=patient)
        if length[0] <= room:
            return pickle.loads(first[_LENGTH_BYTES:][: length[0]])
        whole = np.empty(length[0], np.uint8)
        self._wait(self._comm.Ibcast([whole, self._mpi.BYTE], root), what)
        return pickle.loads(whole)

    def _start_telling(self, what: str, root: int, *buffers: np.ndarray) -> None:
        """Begin to tell, and go on: the others may be busy for long, and need no more of this rank.

        What they have not heard yet stays in memory. There is an end to that.
        """
        for buffer in buffers:
            request = self._comm.Ibcast([buffer, self._mpi.BYTE], root)
            self._told.append((request, buffer))
        while len(self._told) > _MOST_UNHEARD or (self._told and self._told[0][0].Test()):
            self._finish_first(what)

    def finish_telling(self) -> None:
        """Wait for what was told, see :meth:`Communicator.finish_telling`."""
        while self._told:
            self._finish_first("the end of what was told")

    def _finish_first(self, what: str) -> None:
        request, _ = self._told.popleft()
        self._wait(request, what)

    # MPI's own operations, on bytes.

    def _gather(
        self, mine: np.ndarray, out: np.ndarray, what: str, *, patient: bool = False
    ) -> None:
        request = self._comm.Iallgather(
            [_bytes(mine), self._mpi.BYTE], [_bytes(out), self._mpi.BYTE]
        )
        self._wait(request, what, patient=patient)

    def _gather_parts(
        self, mine: np.ndarray, counts: np.ndarray, out: np.ndarray, what: str
    ) -> None:
        sizes = counts * out.itemsize
        request = self._comm.Iallgatherv(
            [_bytes(mine), self._mpi.BYTE], [_bytes(out), (sizes, None), self._mpi.BYTE]
        )
        self._wait(request, what)

    def _scatter(self, mine: np.ndarray, counts: np.ndarray, out: np.ndarray, what: str) -> None:
        """Send part r of `mine` to rank r; get everybody's part for this rank."""
        sizes = counts * out.itemsize
        here = np.full(self.size, sizes[self.rank])
        request = self._comm.Ialltoallv(
            [_bytes(mine), (sizes, None), self._mpi.BYTE],
            [_bytes(out), (here, None), self._mpi.BYTE],
        )
        self._wait(request, what)

    def _wait(self, request: Any, what: str, *, patient: bool = False) -> None:
        self._watch.wait(request.Test, what, self._members, patient=patient)

    def _wait_for(self, request: Any, what: str, other: int, status: Any = None) -> None:
        self._watch.wait(lambda: request.Test(status), what, [self._members[other]])


class SentBytes(Transfer):
    """A message that MPI reads from one piece of memory.

    Parameters
    ----------
    comm : StagedCommunicator
    request : mpi4py.MPI.Request
    x : array
    to : int
    buffer : array
        Its bytes, which are kept until the request is done.
    """

    def __init__(
        self, comm: StagedCommunicator, request: Any, x: Array, to: int, buffer: np.ndarray
    ) -> None:
        self._comm = comm
        self._request = request
        self._x = x
        self._to = to
        self._buffer = buffer

    def wait(self) -> Array:
        """Wait until it has been read."""
        self._comm._wait_for(self._request, named("send", self._x), self._to)
        return self._x


class ReceivedBytes(Transfer):
    """A message that MPI writes to one piece of memory.

    Parameters
    ----------
    comm : StagedCommunicator
    request : mpi4py.MPI.Request
    out : array
    source : int
    buffer : array
        Where its bytes arrive.
    """

    def __init__(
        self, comm: StagedCommunicator, request: Any, out: Array, source: int, buffer: np.ndarray
    ) -> None:
        self._comm = comm
        self._request = request
        self._out = out
        self._source = source
        self._buffer = buffer

    def wait(self) -> Array:
        """Wait until it is there."""
        comm = self._comm
        status = comm._mpi.Status()
        what = named("receive", self._out)
        comm._wait_for(self._request, what, self._source, status)
        if (count := status.Get_count(comm._mpi.BYTE)) != self._out.nbytes:
            raise ParallelError(
                f"Rank {self._source} sent {count} bytes, and {what} needs {self._out.nbytes}.",
                "Send and receive the same shape and dtype.",
            )
        _finish(self._buffer, self._out)
        return self._out


def check_countable(array: Array) -> None:
    """Refuse an array whose bytes are too many for MPI's 32-bit integers.

    Parameters
    ----------
    array : array

    Raises
    ------
    ParallelError
    """
    if array.nbytes > _LARGEST_BYTES:
        raise ParallelError(
            f"An array of {array.nbytes} bytes is too large for a message of MPI's.",
            "Exchange it in pieces of less than 2 GiB, counted over all ranks.",
        )


def _bytes(array: np.ndarray) -> np.ndarray:
    check_countable(array)
    return array.reshape(-1).view(np.uint8)


def _readable(x: Array) -> np.ndarray:
    """Return an array's bytes in the host's memory: a view, or of a GPU's a copy."""
    return _bytes(to_host(x) if kind_of(x) == "cuda" else np.asarray(x))


def _writable(out: Array) -> np.ndarray:
    """Return as many bytes of the host as an array has; :func:`_finish` puts them there."""
    return np.empty(out.nbytes, np.uint8) if kind_of(out) == "cuda" else _bytes(np.asarray(out))


def _finish(buffer: Array, out: Array) -> None:
    # What MPI itself wrote to a GPU's memory is there.
    if kind_of(out) == "cuda" and kind_of(buffer) == "host":
        write_to(out, buffer.view(out.dtype).reshape(out.shape))
