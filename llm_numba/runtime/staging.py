"""From a file into the memory of a GPU, through pinned memory, reading and copying at once.

The GPU copies by itself, at the full speed of the bus, only what lies in *pinned* memory: pages
that the operating system leaves where they are. A file's pages are not. So several threads read
pieces of it into pinned buffers, and as soon as a buffer is full its copy to the GPU is queued;
while that one is under way, the thread fills another::

    thread 0   | read piece 0 | read piece 2 |  ...
    thread 1   | read piece 1 | read piece 3 |  ...
    bus                       | copy 0 | copy 1 | copy 2 | ...

One thread reads from the operating system's cache at a fraction of the bus' speed; some together
keep it busy. The host never holds more of the file than the buffers.
"""

import collections
import os
import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from llm_numba.errors import CheckpointError
from llm_numba.runtime.arrays import Array

# Below 2 MiB what each copy costs to begin shows; above, buffers only grow.
PIECE_BYTES = 4 << 20
_THREADS = 8
_BUFFERS_PER_THREAD = 2

Convert = Callable[[Array, Array], Any]


def num_threads() -> int:
    """Return how many threads read."""
    return min(_THREADS, os.cpu_count() or 1)


class _Buffer:
    """A piece's pinned memory, and the event that says that it was copied."""

    def __init__(self) -> None:
        import cupy

        self.memory = cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(PIECE_BYTES), 0)
        self.bytes = np.frombuffer(self.memory, np.uint8, PIECE_BYTES)
        self.copied = cupy.cuda.Event(disable_timing=True)
        # Where numbers wait that are not in the format they will have.
        self.landing: Array | None = None


class Staging:
    """Copies parts of files into arrays of the current GPU.

    What :meth:`send` was asked for is there when :meth:`wait` returns. Use it as a context manager:
    its end waits, and gives threads and buffers back.
    """

    def __init__(self) -> None:
        import cupy

        self._device = cupy.cuda.Device()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        threads = num_threads()
        self._threads = ThreadPoolExecutor(threads, "upload", initializer=self._adopt)
        self._free: queue.SimpleQueue[_Buffer] = queue.SimpleQueue()
        for _ in range(threads * _BUFFERS_PER_THREAD):
            self._free.put(_Buffer())
        # So many pieces are promised ahead: enough for no thread to wait, few enough to hear soon
        # of one that failed.
        self._ahead = 2 * threads
        self._pending: collections.deque[Future[None]] = collections.deque()

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._threads.shutdown(cancel_futures=True)
            self._stream.synchronize()
            self._give_back()

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
            C-contiguous.
        stored : dtype
            The format of the numbers in the file.
        convert : callable(x, out)
            Queues, on the current stream, what brings numbers of that format into the target's.

        Raises
        ------
        CheckpointError
            If the file ends too early; it may also come from a later call, or from :meth:`wait`.
        """
        import cupy

        # Work queued so far may still use the memory that the target was given.
        self._stream.wait_event(cupy.cuda.get_current_stream().record())
        flat = target.reshape(-1)
        count = PIECE_BYTES // stored.itemsize
        for first in range(0, flat.size, count):
            while len(self._pending) >= self._ahead:
                self._pending.popleft().result()
            piece, place = flat[first : first + count], begin + first * stored.itemsize
            self._pending.append(
                self._threads.submit(self._deliver, file, place, piece, stored, convert)
            )

    def wait(self) -> None:
        """Wait until all that was sent is there.

        Raises
        ------
        CheckpointError
            If a file ended too early.
        """
        while self._pending:
            self._pending.popleft().result()
        self._stream.synchronize()

    def _give_back(self) -> None:
        import cupy

        while not self._free.empty():
            self._free.get()
        # CuPy keeps memory for the stream that it was allocated on, and this one is not used again.
        cupy.get_default_memory_pool().free_all_blocks(self._stream)

    def _adopt(self) -> None:
        """Make device and stream the current ones of a thread of ours."""
        self._device.use()
        self._stream.use()

    def _deliver(
        self, file: int, begin: int, piece: Array, stored: np.dtype, convert: Convert
    ) -> None:
        import cupy

        buffer = self._free.get()
        try:
            buffer.copied.synchronize()
            num_bytes = piece.size * stored.itemsize
            _read(file, begin, buffer.bytes[:num_bytes])
            target = piece
            if stored != piece.dtype:
                if buffer.landing is None:
                    buffer.landing = cupy.empty(PIECE_BYTES, np.uint8)
                target = buffer.landing[:num_bytes].view(stored)
            target.data.copy_from_host_async(buffer.memory.ptr, num_bytes, self._stream)
            if target is not piece:
                convert(target, piece)
            buffer.copied.record(self._stream)
        finally:
            self._free.put(buffer)


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
