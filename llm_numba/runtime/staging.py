"""From a file into the memory of a GPU, through pinned memory, reading and copying at once.

The GPU copies by itself, at the full speed of the bus, only what lies in *pinned* memory: pages
that the operating system leaves where they are. A file's pages are not. So several threads read
pieces of it into pinned buffers, two each. As soon as a buffer is full its copy to the GPU is
queued; while that one is under way, the thread fills the other::

    thread 0   | read into A | read into B | read into A |  ...
    thread 1   | read into C | read into D | read into C |  ...
    bus                      | copy A | copy C | copy B | copy D | ...

One thread reads from the operating system's cache at a fraction of the bus' speed; some together
keep it busy, if they do not wait for one another. So a thread takes its share of a tensor, and
works through it with buffers of its own. They share the interpreter: what they do for a piece
besides reading it must be little, and there may not be too many of them. The host never holds more
of the file than the buffers.
"""

import contextlib
import functools
import itertools
import mmap
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np

from llm_numba.errors import CheckpointError
from llm_numba.runtime.arrays import Array

# A piece costs the interpreter the same whatever its size; pinning large buffers takes longer.
PIECE_BYTES = 4 << 20
# Pieces that a thread takes at a time.
_SPAN = 8
# More of them wait for the interpreter longer than they read.
_THREADS = 10
_HOST_TO_DEVICE = 1
_HUGE_PAGE = 2 << 20

Convert = Callable[[Array, Array], Any]


def num_threads() -> int:
    """Return how many threads read."""
    return min(_THREADS, os.cpu_count() or 1)


class _PinnedMemory:
    """Memory that the GPU may copy from by itself.

    In huge pages, of which there are few to pin: what the driver allocates takes longer to get and
    to give back.
    """

    def __init__(self, num_bytes: int) -> None:
        import cupy

        memory = mmap.mmap(-1, num_bytes + _HUGE_PAGE)
        with contextlib.suppress(OSError):  # a system without huge pages; others do as well
            memory.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(memory, np.uint8)
        begin = -whole.ctypes.data % _HUGE_PAGE
        self.bytes = whole[begin : begin + num_bytes]
        self.address = self.bytes.ctypes.data
        cupy.cuda.runtime.hostRegister(self.address, num_bytes, 0)

    def free(self) -> None:
        import cupy

        cupy.cuda.runtime.hostUnregister(self.address)


class _Buffer:
    """Pinned memory for the piece of some number."""

    def __init__(self, memory: _PinnedMemory, number: int) -> None:
        import cupy

        begin = number * PIECE_BYTES
        self.bytes = memory.bytes[begin : begin + PIECE_BYTES]
        self.address = memory.address + begin
        # Behind the last copy; one that was never recorded is over.
        self.copied = cupy.cuda.Event(disable_timing=True)

    @functools.cached_property
    def landing(self) -> Array:
        """Where numbers land on the GPU that are not in the format they will have."""
        import cupy

        return cupy.empty(PIECE_BYTES, np.uint8)


class _Span(NamedTuple):
    """What a thread does next: bring these bytes of a file to the GPU."""

    file: int
    begin: int
    num_bytes: int
    address: int  # on the GPU, for numbers in the format they will have
    converted: tuple[np.dtype, Array, Convert] | None  # for all others


class Staging:
    """Copies parts of files into arrays of the current GPU.

    What :meth:`send` was asked for is there when :meth:`wait` returns. Use it as a context manager:
    its end waits, and gives threads and buffers back.

    Parameters
    ----------
    num_bytes : int
        About so many will be sent: few take fewer threads and buffers.
    """

    def __init__(self, num_bytes: int) -> None:
        import cupy

        self._device = cupy.cuda.Device()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._under_way: list[Future[None]] = []
        threads = min(num_threads(), 1 + num_bytes // (_SPAN * PIECE_BYTES))
        # All at once, and before anybody reads: to pin holds up everything else.
        self._pinned = _PinnedMemory(2 * threads * PIECE_BYTES)
        self._pairs: queue.SimpleQueue[tuple[_Buffer, _Buffer]] = queue.SimpleQueue()
        try:
            for first in range(0, 2 * threads, 2):
                self._pairs.put((_Buffer(self._pinned, first), _Buffer(self._pinned, first + 1)))
        except BaseException:
            # Nobody has come in yet, so nobody will go out: pages would stay pinned for good.
            self._pinned.free()
            raise
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(threads, "upload")

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        import cupy

        try:
            if kind is None:
                self.wait()
        finally:
            # What has not begun is of no use to anybody.
            self._threads.shutdown(cancel_futures=True)
            self._stream.synchronize()
            self._pinned.free()
            # CuPy keeps memory for the stream it was allocated on; this one is not used again.
            cupy.get_default_memory_pool().free_all_blocks(self._stream)

    def send(
        self, file: int, begin: int, target: Array, stored: np.dtype, convert: Convert
    ) -> None:
        """Begin to fill an array from a file.

        Parameters
        ----------
        file : int
            Descriptor of an open file; open until :meth:`wait` returns.
        begin : int
            The byte at which the first number lies.
        target : cupy.ndarray
            C-contiguous; alive until :meth:`wait` returns.
        stored : dtype
            The format of the numbers in the file.
        convert : callable(x, out)
            Queues, on the current stream, what brings numbers of that format into the target's.
        """
        import cupy

        # Work queued so far may still use the memory that the target was given.
        self._stream.wait_event(cupy.cuda.get_current_stream().record())
        numbers, address = target.reshape(-1), target.data.ptr
        count = _SPAN * PIECE_BYTES // stored.itemsize
        for first in range(0, numbers.size, count):
            last = min(first + count, numbers.size)
            converted = None
            if stored != numbers.dtype:
                converted = (stored, numbers[first:last], convert)
            place, num_bytes = first * stored.itemsize, (last - first) * stored.itemsize
            span = _Span(file, begin + place, num_bytes, address + place, converted)
            self._under_way.append(self._threads.submit(self._bring, span))

    def wait(self) -> None:
        """Wait until all that was sent is there.

        Raises
        ------
        CheckpointError
            If a file ended too early.
        """
        spans, self._under_way = self._under_way, []
        # Once for all of them: who wakes for each takes the interpreter from those that read.
        wait(spans, return_when=FIRST_EXCEPTION)
        for span in spans:
            span.result()
        self._stream.synchronize()

    def _begin_thread(self) -> None:
        self._device.use()
        self._stream.use()
        self._own.buffers = itertools.cycle(self._pairs.get())

    def _bring(self, span: _Span) -> None:
        from cupy.cuda import runtime

        if not hasattr(self._own, "buffers"):
            self._begin_thread()
        stream = self._stream
        for place in range(0, span.num_bytes, PIECE_BYTES):
            buffer: _Buffer = next(self._own.buffers)
            num_bytes = min(PIECE_BYTES, span.num_bytes - place)
            # To ask first keeps the interpreter, which others may take while one waits.
            if not buffer.copied.done:
                buffer.copied.synchronize()
            _read(span.file, span.begin + place, buffer.bytes[:num_bytes])
            target = buffer.landing.data.ptr if span.converted else span.address + place
            runtime.memcpyAsync(target, buffer.address, num_bytes, _HOST_TO_DEVICE, stream.ptr)
            if span.converted:
                stored, numbers, convert = span.converted
                first, count = place // stored.itemsize, num_bytes // stored.itemsize
                out = numbers[first : first + count]
                convert(buffer.landing[:num_bytes].view(stored), out)
            buffer.copied.record(stream)


def _read(file: int, begin: int, buffer: np.ndarray) -> None:
    """Fill a buffer from a file; the system may answer a long request in parts."""
    done = 0
    while done < buffer.size:
        count = os.preadv(file, [buffer[done:]], begin + done)
        if count == 0:
            raise CheckpointError(
                f"A file of weights ended after {begin + done} bytes, while it was read.",
                "Do not write to a checkpoint while it is loaded; download that file again.",
            )
        done += count
