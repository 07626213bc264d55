"""When each kernel began and ended on the GPU, as it noted itself: CUPTI's activity records.

Events around a launch time the launch too, and inside a CUDA graph there is nowhere to put them.
CUPTI, the library beneath NVIDIA's own profilers, has the GPU write down the begin and the end of
each kernel, in a graph as elsewhere. It keeps kernels from running into each other while it looks,
so the time between them is longer than without it: trust the kernels' own times, and take the time
of the whole from a run that nobody watches.

The few functions and fields that are needed are reached through ctypes. The fields have kept their
places in every version of the record since CUDA 9 (``CUpti_ActivityKernel4`` and later).

Source: "CUPTI documentation", Activity API; ``cupti_activity.h``.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

from llm_numba.errors import DeviceError

_CONCURRENT_KERNEL = 10  # CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL
_FORCED = 1  # CUPTI_ACTIVITY_FLAG_FLUSH_FORCED
_BEGIN, _END, _NAME = 16, 24, 104  # bytes into a record of a kernel
_BUFFER_BYTES = 4 << 20
_ALIGNMENT = 8  # ACTIVITY_RECORD_ALIGNMENT
_SONAMES = ("libcupti.so.13", "libcupti.so.12")

_Address = ctypes.POINTER(ctypes.c_void_p)
_Size = ctypes.POINTER(ctypes.c_size_t)
_Requested = ctypes.CFUNCTYPE(None, _Address, _Size, _Size)
_Completed = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
)


@dataclass(frozen=True, order=True)
class KernelRun:
    """One run of a kernel.

    Attributes
    ----------
    begin, end : int
        In nanoseconds, by a clock whose zero means nothing.
    name : str
        As it was compiled: Numba's holds the Python name.
    """

    begin: int
    end: int
    name: str


class Cupti:
    """CUPTI in this process, of which there is one.

    Parameters
    ----------
    library : ctypes.CDLL
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._runs: list[KernelRun] = []
        self._buffers: dict[int, ctypes.Array] = {}
        # Kept, for CUPTI calls them as long as the process lives.
        self._callbacks = _Requested(self._hand_out), _Completed(self._take_back)
        self._call("cuptiActivityRegisterCallbacks", *self._callbacks)

    def watch(self, work: Callable[[], object]) -> list[KernelRun]:
        """Run work and return the kernels that ran, in the order in which they began.

        Parameters
        ----------
        work : callable
            Has waited for the GPU when it returns.

        Raises
        ------
        DeviceError
            If CUPTI refuses, as it does while another profiler has it.
        """
        self._runs.clear()
        self._call("cuptiActivityEnable", _CONCURRENT_KERNEL)
        try:
            work()
            self._call("cuptiActivityFlushAll", _FORCED)
        finally:
            self._call("cuptiActivityDisable", _CONCURRENT_KERNEL)
        return sorted(self._runs)

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise DeviceError(
                f"CUPTI cannot watch the GPU: {function} returned {status}.",
                "End other profilers (ncu, nsys, a debugger) that have hold of this process.",
            )

    def _hand_out(self, buffer: "ctypes._Pointer", size: "ctypes._Pointer", most: object) -> None:
        memory = ctypes.create_string_buffer(_BUFFER_BYTES + _ALIGNMENT)
        address = -(-ctypes.addressof(memory) // _ALIGNMENT) * _ALIGNMENT
        self._buffers[address] = memory
        buffer[0], size[0], most[0] = address, _BUFFER_BYTES, 0

    def _take_back(self, context: int, stream: int, buffer: int, size: int, valid: int) -> None:
        record = ctypes.c_void_p()
        following = self._library.cuptiActivityGetNextRecord
        while not following(ctypes.c_void_p(buffer), ctypes.c_size_t(valid), ctypes.byref(record)):
            if ctypes.c_uint32.from_address(record.value).value == _CONCURRENT_KERNEL:
                self._runs.append(_read(record.value))
        del self._buffers[buffer]


def _read(record: int) -> KernelRun:
    begin, end = (ctypes.c_uint64.from_address(record + at).value for at in (_BEGIN, _END))
    name = ctypes.c_char_p.from_address(record + _NAME).value or b""
    return KernelRun(begin, end, name.decode())


@functools.cache
def cupti() -> Cupti:
    """Load CUPTI.

    Returns
    -------
    Cupti

    Raises
    ------
    DeviceError
        If it is not installed.
    """
    return Cupti(_load())


def _load() -> ctypes.CDLL:
    names = list(_SONAMES)
    try:
        # Knows the places of wheels, of conda, and of CUDA's own installer.
        from cuda.pathfinder import load_nvidia_dynamic_lib

        names.insert(0, load_nvidia_dynamic_lib("cupti").abs_path)
    except (ImportError, RuntimeError, ValueError):  # not found, or not known to this release
        pass
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError(
        "CUPTI, which times single kernels, is not installed.",
        "Run: pip install nvidia-cuda-cupti (CUDA 12: nvidia-cuda-cupti-cu12).",
    )
