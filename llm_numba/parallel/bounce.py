"""Messages between GPUs through the memory of the host, in pieces that overtake nothing.

A message goes three ways: from the GPU to the host, by MPI to the other rank's host memory, and up
to its GPU. One after another they would add up. In pieces they overlap::

    GPU to host   | 0 | 1 | 2 | 3 |
    MPI               | 0 | 1 | 2 | 3 |
    host to GPU           | 0 | 1 | 2 | 3 |

So they go between hosts. Within one there is a shorter way: :mod:`llm_numba.parallel.shared`.

The GPU copies at full speed only from and to pinned memory, and in pieces that are not small. A
message has as much of it as it is long, not two pieces: a send must not wait until the other rank
receives, or two ranks that both send first would wait for ever.
"""

from typing import Any

import numpy as np

from llm_numba.errors import ParallelError
from llm_numba.parallel.communicator import Transfer
from llm_numba.parallel.staged import StagedCommunicator, check_countable
from llm_numba.parallel.wording import named
from llm_numba.runtime import Array, kind_of
from llm_numba.runtime.transfers import pinned

PIECE_BYTES = 2 << 20


class BounceCommunicator(StagedCommunicator):
    """Ranks of any MPI, with arrays of GPUs; see the other."""

    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array, see :meth:`Communicator.start_send`."""
        if kind_of(x) != "cuda":
            return super().start_send(x, to)
        import cupy

        self._check_message("send", x, to)
        check_countable(x)
        buffer, stream = pinned(x.nbytes, np.uint8), cupy.cuda.get_current_stream()
        pieces, copied = _pieces(x.nbytes), []
        for piece in pieces:
            _copy(buffer, x, piece, cupy.cuda.runtime.memcpyDeviceToHost, stream)
            copied.append(stream.record())
        requests = []
        for piece, event in zip(pieces, copied, strict=True):
            event.synchronize()
            requests.append(self._comm.Isend([buffer[piece], self._mpi.BYTE], to))
        return _Sending(self, requests, x, to, buffer)

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array, see :meth:`Communicator.start_receive`."""
        if kind_of(out) != "cuda":
            return super().start_receive(out, source)
        self._check_message("receive", out, source)
        check_countable(out)
        buffer = pinned(out.nbytes, np.uint8)
        requests = [
            self._comm.Irecv([buffer[piece], self._mpi.BYTE], source)
            for piece in _pieces(out.nbytes)
        ]
        return _Receiving(self, requests, out, source, buffer)


class _Sending(Transfer):
    def __init__(
        self, comm: BounceCommunicator, requests: list[Any], x: Array, to: int, buffer: np.ndarray
    ) -> None:
        self._comm, self._requests, self._x, self._to = comm, requests, x, to
        self._buffer = buffer  # read until the requests are done

    def wait(self) -> Array:
        for request in self._requests:
            self._comm._wait_for(request, named("send", self._x), self._to)
        return self._x


class _Receiving(Transfer):
    def __init__(
        self,
        comm: BounceCommunicator,
        requests: list[Any],
        out: Array,
        source: int,
        buffer: np.ndarray,
    ) -> None:
        self._comm, self._requests, self._out = comm, requests, out
        self._source, self._buffer = source, buffer

    def wait(self) -> Array:
        import cupy

        comm, out = self._comm, self._out
        status, stream = comm._mpi.Status(), cupy.cuda.get_current_stream()
        what, received = named("receive", out), 0
        for request, piece in zip(self._requests, _pieces(out.nbytes), strict=True):
            comm._wait_for(request, what, self._source, status)
            received += status.Get_count(comm._mpi.BYTE)
            _copy(self._buffer, out, piece, cupy.cuda.runtime.memcpyHostToDevice, stream)
        # Only then may the pinned memory be somebody else's.
        stream.synchronize()
        if received != out.nbytes:
            raise ParallelError(
                f"Rank {self._source} sent {received} bytes, and {what} needs {out.nbytes}.",
                "Send and receive the same shape and dtype.",
            )
        return out


def _pieces(num_bytes: int) -> list[slice]:
    begins = range(0, num_bytes, PIECE_BYTES)
    return [slice(begin, min(begin + PIECE_BYTES, num_bytes)) for begin in begins]


def _copy(buffer: np.ndarray, x: Array, piece: slice, kind: int, stream: Any) -> None:
    """Queue the copy of a piece between the host's buffer and an array of a GPU."""
    import cupy

    there, here = x.data.ptr + piece.start, buffer.ctypes.data + piece.start
    to_host = kind == cupy.cuda.runtime.memcpyDeviceToHost
    ends = (here, there) if to_host else (there, here)
    cupy.cuda.runtime.memcpyAsync(*ends, piece.stop - piece.start, kind, stream.ptr)
