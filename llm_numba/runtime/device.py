"""Which device runs the model, and in which number format."""

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
        raise DeviceError(
            f"device='cuda' cannot be used: {_why_no_cuda()}.",
            "Use device='cpu' (or 'auto'); `llm-numba doctor` shows what works here.",
        )
    raise DeviceError(f"There is no device {device!r}.", "Choose one of: auto, cpu, cuda.")


def _why_no_cuda() -> str:
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
    return "this version of llm_numba runs models on the CPU only"


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
