"""Clock and power of a GPU while it works, asked of the driver's management library, NVML.

A GPU that draws all the power it may lowers its clock, and tensor cores that multiply random
numbers do bring it there. So a speed says little without the clock that it was reached at; and the
clock before and after is that of an idle GPU.

Source: NVIDIA, "NVML API Reference".
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Self

import numpy as np

_SM = 1  # NVML_CLOCK_SM
_SECONDS = 5e-3

# Returns MHz of the SMs and watts.
Read = Callable[[], tuple[float, float]]


def reader() -> Read | None:
    """Return what reads clock and power of the current GPU; None without NVML.

    NVML averages the power over up to a second.
    """
    import cupy

    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle = ctypes.c_void_p()
    bus = cupy.cuda.Device().pci_bus_id.encode()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle)):
        return None
    clock, power = ctypes.c_uint(), ctypes.c_uint()

    def read() -> tuple[float, float]:
        library.nvmlDeviceGetClockInfo(handle, _SM, ctypes.byref(clock))
        library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(power))
        return float(clock.value), power.value / 1e3

    return read


class ClockWatch:
    """Reads clock and power every few milliseconds in a thread, for as long as it is entered.

    Parameters
    ----------
    read : callable or None
        As of :func:`reader`; None reads nothing.
    """

    def __init__(self, read: Read | None) -> None:
        self._read = read
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if self._read is not None:
            self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        if self._read is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._samples.append(self._read())
            if self._ended.wait(_SECONDS):
                return

    def to_json(self) -> dict[str, float]:
        """Return ``sm_mhz`` and ``watts``, medians, and ``least_sm_mhz``; {} without samples."""
        if not self._samples:
            return {}
        mhz, watts = zip(*self._samples, strict=True)
        return {
            "sm_mhz": float(np.median(mhz)),
            "least_sm_mhz": min(mhz),
            "watts": round(float(np.median(watts)), 1),
        }
