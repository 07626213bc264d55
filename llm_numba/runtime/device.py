"""Which device runs the model or a kernel, and in which number format."""

import functools
import importlib.util
import os
from typing import Literal

import numpy as np

from llm_numba.errors import DeviceError

_CUDA_ERROR_NO_DEVICE = 100
_CPU_DTYPES = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}


def resolve_device(device: str) -> str:
    """Turn a user's choice of device into one that exists here.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes the best that works.

    Returns
    -------
    str
        The device's name.

    Raises
    ------
    DeviceError
        If the device is unknown or cannot be had on this machine.
    """
    if device in ("auto", "cpu"):
        return "cpu"
    if device == "cuda":
        why = _why_no_driver() or "this version of llm_numba runs models on the CPU only"
        raise DeviceError(
            f"device='cuda' cannot be used: {why}.",
            "Use device='cpu' (or 'auto'); `llm-numba doctor` shows what works here.",
        )
    raise DeviceError(f"There is no device {device!r}.", "Choose one of: auto, cpu, cuda.")


def kernel_device(device: str | None = None) -> Literal["cuda", "sim"]:
    """Decide where kernels run.

    Parameters
    ----------
    device : {"cuda", "sim"}, optional
        By default the simulator if the environment sets ``LLM_NUMBA_SIM=1``, else the GPU.

    Returns
    -------
    {"cuda", "sim"}
        A device that works here.

    Raises
    ------
    DeviceError
        If the device is unknown, or is the GPU and cannot be used here.
    """
    if device == "sim" or (device is None and simulation_requested()):
        return "sim"
    if device not in (None, "cuda"):
        raise DeviceError(f"No kernel runs on device {device!r}.", "Choose one of: cuda, sim.")
    if problem := gpu_problem():
        raise DeviceError(
            f"Kernels cannot run on a GPU here: {problem}.",
            "Set LLM_NUMBA_SIM=1 to run them in the simulator; `llm-numba doctor` shows what "
            "works here.",
        )
    return "cuda"


def simulation_requested() -> bool:
    """Tell whether the environment asks for the simulator: ``LLM_NUMBA_SIM=1``."""
    return os.environ.get("LLM_NUMBA_SIM", "0") not in ("", "0")


@functools.cache
def gpu_problem() -> str | None:
    """Say why kernels cannot run on a GPU here, or return None if they can.

    What needs no import is asked first: a machine without a driver never imports CuPy.
    """
    if why := _why_no_driver():
        return why
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'llm-numba[cu13]')"
    try:
        import cupy

        cupy.zeros(1)
    except Exception as error:  # whatever a broken installation raises
        message = str(error).strip() or type(error).__name__
        return f"CuPy does not work ({message.splitlines()[0]})"
    return None


def _why_no_driver() -> str | None:
    # The driver's own library is asked by name, so that no CUDA package needs to be installed.
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) is installed on this machine"
    status = driver.cuInit(0)
    if status == _CUDA_ERROR_NO_DEVICE:
        return "the NVIDIA driver finds no GPU"
    if status != 0:
        return f"the NVIDIA driver is installed but does not start (error {status})"
    return None


def resolve_dtype(dtype: str | None, device: str) -> np.dtype:
    """Turn a user's choice of number format into one that the device computes in.

    Parameters
    ----------
    dtype : str or None
        ``None`` takes the device's default: float32 on the CPU.
    device : str
        As returned by :func:`resolve_device`.

    Returns
    -------
    dtype
        The format of activations and of weights in memory.

    Raises
    ------
    DeviceError
        If the device does not compute in that format.
    """
    name = dtype or "float32"
    if name not in _CPU_DTYPES:
        raise DeviceError(
            f"device={device!r} does not compute in dtype={name!r}.",
            f"Choose one of: {', '.join(_CPU_DTYPES)}; checkpoints stored in 16 bits are converted "
            "while they load.",
        )
    return _CPU_DTYPES[name]
