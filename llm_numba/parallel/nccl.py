"""The path ``nccl``: NVIDIA's library for collective operations between GPUs, through CuPy.

Ranks meet over MPI: rank 0 makes an identifier, tells it, and all join. From then on an operation
is a kernel on the current stream, like any other: nobody waits for it on the host, and a CUDA graph
can hold it.

A message is a kernel, too, which waits on the GPU for its other end. A send and a receive on one
stream, in this order on both ranks, would wait for each other for ever. So each pair of neighbours
has a communicator and a stream of its own for each direction, and a message's kernel delays nothing
but later messages of that direction::

    current stream   kernel ....... | event |  next kernels ...              | after wait()
    to the next                             | send ........... | event ------|
    from the last    | receive .......................... | event -----------|

The first message of a communicator connects its ends, for which the *hosts* wait for each other.
Two ranks that both begin with a receive would wait for ever, so each line carries a first byte
where all ranks make it, in one order.

NCCL rounds sums of 16-bit numbers at each rank that they pass, where all else here adds in float32
and rounds once. With two ranks there is one addition, and no difference.

A communicator ends on all ranks of a host together, and not while a CUDA graph holds its kernels:
who ends one waits for both, without limit. Python's garbage collector knows of neither. So
communicators are kept until the process ends, behind the last meeting of all ranks. This holds for
``peer`` as well, which has one of them beneath it for all that it does not carry itself.

Source: NVIDIA NCCL documentation, "Point-to-point communication", "Using NCCL with CUDA Graphs" and
``ncclCommDestroy``.
"""

import functools
from typing import Any

from llm_numba.errors import ParallelError
from llm_numba.parallel.carrier import Carrier
from llm_numba.parallel.communicator import Communicator, Transfer
from llm_numba.reference.rank_sums import Reduction
from llm_numba.runtime import Array, kind_of, storage_dtype

_FORMATS = {
    "float32": "NCCL_FLOAT32",
    "float16": "NCCL_FLOAT16",
    "bfloat16": "NCCL_BFLOAT16",
    "float64": "NCCL_FLOAT64",
    "int8": "NCCL_INT8",
    "uint8": "NCCL_UINT8",
    "int32": "NCCL_INT32",
    "uint32": "NCCL_UINT32",
    "int64": "NCCL_INT64",
    "uint64": "NCCL_UINT64",
}
_OPERATIONS = {"sum": "NCCL_SUM", "max": "NCCL_MAX"}
_joined: list[Any] = []  # all communicators of this process


@functools.cache
def nccl_problem() -> str:
    """Say why NCCL cannot be used here, or return nothing if it can."""
    try:
        from cupy.cuda import nccl
    except ImportError as error:
        return f"CuPy does not have it ({error})"
    if not nccl.available:
        return "its library is not installed (pip install nvidia-nccl-cu13)"
    return ""


class NCCLCommunicator(Carrier):
    """Ranks that exchange arrays of GPUs by NCCL.

    Parameters
    ----------
    host : Communicator
        By which they have met. It takes what NCCL does not know: other formats, arrays of the
        host, messages to others than neighbours.
    """

    name = "nccl"
    captures = True

    def __init__(self, host: Communicator) -> None:
        super().__init__(host)
        self._group = _join(host, list(range(host.size)))
        # In one order on all ranks: each pair joins when both have joined those before.
        self._lines: dict[tuple[int, int], _Line] = {}
        for rank in range(host.size):
            ends = rank, (rank + 1) % host.size
            joined = _join(host, list(ends))
            if joined is not None:
                self._lines[ends] = _Line(joined)
                self._lines[ends].connect(sends=host.rank == ends[0])

    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array, see :meth:`Communicator.start_send`."""
        line = self._lines.get((self.rank, to))
        if line is None or kind_of(x) != "cuda":
            return super().start_send(x, to)
        self._check_message("send", x, to)
        return line.start(x, "send", other=1)

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array, see :meth:`Communicator.start_receive`."""
        line = self._lines.get((source, self.rank))
        if line is None or kind_of(out) != "cuda":
            return super().start_receive(out, source)
        self._check_message("receive", out, source)
        return line.start(out, "recv", other=0)

    def _all_reduce(self, x: Array, op: Reduction) -> None:
        if (dtype := _format(x)) is None:
            super()._all_reduce(x, op)
            return
        address, how = x.data.ptr, _constant(_OPERATIONS[op])
        self._group.allReduce(address, address, x.size, dtype, how, _stream().ptr)

    def _all_gather(self, x: Array, out: Array) -> None:
        if kind_of(x) != "cuda":
            super()._all_gather(x, out)
            return
        self._group.allGather(*_ends(x, out), x.nbytes, _constant("NCCL_INT8"), _stream().ptr)

    def _reduce_scatter(self, x: Array, out: Array) -> None:
        if (dtype := _format(x)) is None:
            super()._reduce_scatter(x, out)
            return
        how = _constant("NCCL_SUM")
        self._group.reduceScatter(*_ends(x, out), out.size, dtype, how, _stream().ptr)

    def _broadcast(self, x: Array, root: int) -> None:
        if kind_of(x) != "cuda":
            super()._broadcast(x, root)
            return
        bytes_ = _constant("NCCL_INT8")
        self._group.broadcast(*_ends(x, x), x.nbytes, bytes_, root, _stream().ptr)


class _Line:
    """Messages from one rank to another, on a stream of their own."""

    def __init__(self, pair: Any) -> None:
        import cupy

        self._pair = pair
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def connect(self, *, sends: bool) -> None:
        """Carry a byte; both ends do this at the same time."""
        import cupy

        byte = cupy.zeros(1, cupy.int8)
        self.start(byte, *(("send", 1) if sends else ("recv", 0))).wait()
        _stream().synchronize()

    def start(self, x: Array, what: str, other: int) -> Transfer:
        # Not before x is written, or what was in it is read.
        self._stream.wait_event(_stream().record())
        call = getattr(self._pair, what)
        call(x.data.ptr, x.nbytes, _constant("NCCL_INT8"), other, self._stream.ptr)
        return _Message(x, self._stream.record())


class _Message(Transfer):
    def __init__(self, x: Array, done: Any) -> None:
        self._x, self._done = x, done

    def wait(self) -> Array:
        # The stream waits, not the host.
        _stream().wait_event(self._done)
        return self._x


def _join(host: Communicator, members: list[int]) -> Any:
    """Make NCCL's communicator of some ranks; None on the others."""
    from cupy.cuda import nccl

    first = members[0]
    identifier = host.tell(nccl.get_unique_id() if host.rank == first else None, root=first)
    if host.rank not in members:
        return None
    try:
        joined = nccl.NcclCommunicator(len(members), identifier, members.index(host.rank))
    except nccl.NcclError as error:
        raise ParallelError(
            f"NCCL does not connect ranks {', '.join(map(str, members))}: {error}.",
            "NCCL_DEBUG=INFO tells more. Or take another path: --comm peer, mpi or mpi-staged.",
        ) from error
    _joined.append(joined)
    return joined


def _format(x: Array) -> int | None:
    """Return NCCL's number for the format of a GPU's array, or None if it has none."""
    name = _FORMATS.get(storage_dtype(x)) if kind_of(x) == "cuda" else None
    return None if name is None else _constant(name)


@functools.cache
def _constant(name: str) -> int:
    from cupy.cuda import nccl

    return getattr(nccl, name)


def _ends(x: Array, out: Array) -> tuple[int, int]:
    return x.data.ptr, out.data.ptr


def _stream() -> Any:
    import cupy

    return cupy.cuda.get_current_stream()
