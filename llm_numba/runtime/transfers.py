"""Copies between host and device that nobody waits for.

The GPU copies by itself only from and to memory that the operating system must not move: *pinned*
memory. From any other the driver first makes a copy that is, and may wait. Both directions are
queued on the current stream, behind the work that came before and in front of what comes after.
"""

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from llm_numba.runtime.arrays import Array, kind_of, to_host


class _Copied:
    """When the copies that a stream holds are made; their memory lives until then.

    Only a GPU has it: Python cannot raise in ``__del__``, so a Ctrl-C that comes there is lost.
    """

    def __init__(self, *memory: np.ndarray) -> None:
        import cupy

        self._memory = memory
        # One that was never recorded is over.
        self._event = cupy.cuda.Event(disable_timing=True)

    def after(self, stream: Any) -> None:
        stream.record(self._event)

    def wait(self) -> None:
        self._event.synchronize()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the GPU may have failed long since
            self._event.synchronize()


class DoubleBuffer:
    """Two buffers of the host, in turn: one is filled while the other may still be copied.

    Parameters
    ----------
    size : int
        Elements of each.
    dtype : dtype-like
    like : cupy.ndarray, SimulatedArray or ndarray
        Lies where the copies go.
    """

    def __init__(self, size: int, dtype: DTypeLike, like: Array) -> None:
        self._buffers = [_host_buffer(size, dtype, like) for _ in range(2)]
        self._addresses = [ctypes.c_void_p(buffer.ctypes.data) for buffer in self._buffers]
        is_gpu = kind_of(like) == "cuda"
        self._copied = [_Copied(buffer) for buffer in self._buffers] if is_gpu else None
        self._turn = 0

    def next_buffer(self) -> np.ndarray:
        """Return the buffer whose turn it is, when its last copy is made.

        Returns
        -------
        ndarray [size]
            Holds anything.
        """
        self._turn = 1 - self._turn
        if self._copied is not None:
            self._copied[self._turn].wait()
        return self._buffers[self._turn]

    def send(self, target: Array) -> None:
        """Queue a copy of the buffer's beginning to a device.

        Parameters
        ----------
        target : cupy.ndarray, SimulatedArray or ndarray
            One-dimensional and contiguous.
        """
        if self._copied is None:
            target[...] = self._buffers[self._turn][: target.size]
            return
        import cupy

        stream = cupy.cuda.get_current_stream()
        target.data.copy_from_host_async(self._addresses[self._turn], target.nbytes, stream)
        self._copied[self._turn].after(stream)


class Download:
    """Arrays on their way to the host.

    Parameters
    ----------
    arrays : sequence of cupy.ndarray, SimulatedArray or ndarray
        Contiguous, all of one device. What is queued on the current stream later may overwrite
        them.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        self._copied: _Copied | None = None
        if not arrays or kind_of(arrays[0]) != "cuda":
            self._copies = [to_host(array) for array in arrays]
            return
        import cupy

        stream = cupy.cuda.get_current_stream()
        self._copies = []
        for array in arrays:
            copy = _host_buffer(array.size, array.dtype, array).reshape(array.shape)
            address = ctypes.c_void_p(copy.ctypes.data)
            array.data.copy_to_host_async(address, array.nbytes, stream)
            self._copies.append(copy)
        self._copied = _Copied(*self._copies)
        self._copied.after(stream)

    def wait(self) -> list[np.ndarray]:
        """Wait until these arrays have come, and for nothing that was queued after them.

        Returns
        -------
        list of ndarray
        """
        if self._copied is not None:
            self._copied.wait()
            self._copied = None
        return self._copies


def pinned(size: int, dtype: DTypeLike) -> np.ndarray:
    """Return memory of the host from and to which a GPU copies by itself.

    Parameters
    ----------
    size : int
        Elements.
    dtype : dtype-like

    Returns
    -------
    ndarray [size]
        Holds anything. CuPy may hand its memory out again as soon as the array is gone, even if a
        copy has not ended.
    """
    import cupy

    dtype = np.dtype(dtype)
    memory = cupy.cuda.alloc_pinned_memory(max(1, size * dtype.itemsize))
    return np.frombuffer(memory, dtype, size)


def _host_buffer(size: int, dtype: DTypeLike, like: Array) -> np.ndarray:
    return pinned(size, dtype) if kind_of(like) == "cuda" else np.empty(size, dtype)
