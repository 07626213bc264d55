"""Messages from one GPU's memory to another's, carried by MPI itself.

An MPI is *CUDA-aware* if it takes a pointer to a GPU's memory where it takes one to the host's. It
then copies over the links between GPUs, and the host sees nothing of it. One that is not reads the
pointer as the host's, and the program ends with a segmentation fault. Hence the tries of
:mod:`llm_numba.parallel.probing`, in processes of their own.

MPI knows nothing of streams. It reads and writes when it is called, or at any time until the
transfer has been waited for::

    host     queue kernel | synchronise |  Isend  | queue kernel ...
    stream   .... kernel ............../|         |    kernel
    MPI                                 | reads x ......... |  wait()

So before a send the stream must have written x, and before a receive it must have read what was in
`out`: both times the host waits for it. After ``wait`` the array may be used at once.
"""

from typing import Any

from llm_numba.parallel.communicator import Transfer
from llm_numba.parallel.staged import ReceivedBytes, SentBytes, StagedCommunicator, check_countable
from llm_numba.runtime import Array, kind_of


class DirectCommunicator(StagedCommunicator):
    """Ranks of a CUDA-aware MPI; see the other. What is not a message goes by the host's memory."""

    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array, see :meth:`Communicator.start_send`."""
        if kind_of(x) != "cuda":
            return super().start_send(x, to)
        self._check_message("send", x, to)
        request = self._comm.Isend([self._settled(x), self._mpi.BYTE], to)
        return SentBytes(self, request, x, to, x)

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array, see :meth:`Communicator.start_receive`."""
        if kind_of(out) != "cuda":
            return super().start_receive(out, source)
        self._check_message("receive", out, source)
        request = self._comm.Irecv([self._settled(out), self._mpi.BYTE], source)
        return ReceivedBytes(self, request, out, source, out)

    def _settled(self, x: Array) -> Any:
        """Return an array's bytes when nothing that is queued uses them any more.

        As an address: to make a view of an array, and to ask it for what MPI must know, takes the
        host longer than to send a short message.
        """
        import cupy

        cupy.cuda.get_current_stream().synchronize()
        check_countable(x)
        return self._mpi.buffer.fromaddress(x.data.ptr, x.nbytes)
