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

import functools
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from llm_numba.errors import CheckpointError
from llm_numba.runtime.arrays import Array

# A piece costs the interpreter the same whatever its size; pinning large buffers takes longer.
PIECE_BYTES = 4 << 20
# More than the bus needs by itself: reading slows down while the bus reads the same memory.
_THREADS = 12
# Beside one for each thread: those that are being copied.
_BUFFERS_UNDER_WAY = 4
_HOST_TO_DEVICE = 1

Convert = Callable[[Array, Array], Any]


def num_threads() -> int:
    """Return how many threads read."""
    return min(_THREADS, os.cpu_count() or 1)


class _Buffer:
    """A piece's pinned memory, made by the thread that first reads into it."""

    @functools.cached_property
    def memory(self) -> Any:
        import cupy

        return cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(PIECE_BYTES), 0)

    @functools.cached_property
    def bytes(self) -> np.ndarray:
        """The memory as an array."""
        return np.frombuffer(self.memory, np.uint8, PIECE_BYTES)

    @functools.cached_property
    def copied(self) -> Any:
        """The event behind the last copy."""
        import cupy

        return cupy.cuda.Event(disable_timing=True)

    @functools.cached_property
    def landing(self) -> Array:
        """Where numbers land on the GPU that are not in the format they will have."""
        import cupy

        return cupy.empty(PIECE_BYTES, np.uint8)


class _Piece(NamedTuple):
    """What a thread does next: read these bytes into the buffer, and queue their copy."""

    buffer: _Buffer
    file: int
    begin: int
    num_bytes: int
    address: int  # on the GPU, for numbers in the format they will have
    converted: tuple[np.dtype, Array, Convert] | None  # for all others


class Staging:
    """Copies parts of files into arrays of the current GPU.

    What :meth:`send` was asked for is there when :meth:`wait` returns. Use it as a context manager:
    its end waits, and gives threads and buffers back.
    """

    def __init__(self) -> None:
        import cupy

        self._device = cupy.cuda.Device()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._error: BaseException | None = None
        # A piece comes with a buffer: so no more of them wait than there are buffers.
        self._buffers: list[_Buffer] = []
        self._most_buffers = num_threads() + _BUFFERS_UNDER_WAY
        self._free: queue.SimpleQueue[_Buffer] = queue.SimpleQueue()
        self._pieces: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"upload-{number}", daemon=True)
            for number in range(num_threads())
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, *rest: object) -> None:
        import cupy

        try:
            if kind is None:
                self.wait()
        finally:
            # Pieces that still wait are of no use to anybody.
            self._error = self._error or error
            for _ in self._threads:
                self._pieces.put(None)
            for thread in self._threads:
                thread.join()
            self._stream.synchronize()
            self._buffers.clear()
            while not self._free.empty():
                self._free.get()
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

        Raises
        ------
        CheckpointError
            If the file ends too early; it may also come from a later call, or from :meth:`wait`.
        """
        import cupy

        # Work queued so far may still use the memory that the target was given.
        self._stream.wait_event(cupy.cuda.get_current_stream().record())
        flat, address = target.reshape(-1), target.data.ptr
        count = PIECE_BYTES // stored.itemsize
        for first in range(0, flat.size, count):
            last = min(first + count, flat.size)
            converted = None
            if stored != flat.dtype:
                converted = (stored, flat[first:last], convert)
            place, num_bytes = first * stored.itemsize, (last - first) * stored.itemsize
            self._pieces.put(
                _Piece(self._buffer(), file, begin + place, num_bytes, address + place, converted)
            )
            if self._error:
                raise self._error

    def wait(self) -> None:
        """Wait until all that was sent is there.

        Raises
        ------
        CheckpointError
            If a file ended too early.
        """
        for buffer in [self._free.get() for _ in self._buffers]:
            self._free.put(buffer)
        if self._error:
            raise self._error
        self._stream.synchronize()

    def _buffer(self) -> _Buffer:
        """Return a free buffer, or a new one while there may be more: pinning takes its time."""
        if self._free.empty() and len(self._buffers) < self._most_buffers:
            self._buffers.append(_Buffer())
            return self._buffers[-1]
        return self._free.get()

    def _work(self) -> None:
        self._device.use()
        self._stream.use()
        while (piece := self._pieces.get()) is not None:
            try:
                if self._error is None:
                    self._deliver(piece)
            except BaseException as error:  # it belongs to the thread that waits
                self._error = error
            finally:
                self._free.put(piece.buffer)

    def _deliver(self, piece: _Piece) -> None:
        import cupy

        buffer, num_bytes, stream = piece.buffer, piece.num_bytes, self._stream
        buffer.copied.synchronize()
        _read(piece.file, piece.begin, buffer.bytes[:num_bytes])
        address = buffer.landing.data.ptr if piece.converted else piece.address
        cupy.cuda.runtime.memcpyAsync(
            address, buffer.memory.ptr, num_bytes, _HOST_TO_DEVICE, stream.ptr
        )
        if piece.converted:
            stored, out, convert = piece.converted
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
