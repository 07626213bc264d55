"""Which device runs the model or a kernel, and in which number format."""

import functools
import importlib.util
import sys
from typing import Any, Literal

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np

from llm_numba import variables
from llm_numba.errors import DeviceError

Device = Literal["cpu", "cuda", "sim"]

_CUDA_ERROR_NO_DEVICE = 100
_KERNEL_DTYPES = ("float32", "float16", "bfloat16")
# BLAS has no product in 16 bits; kernels leave float64 to the reference.
_DTYPES: dict[str, tuple[str, ...]] = {
    "cpu": ("float32", "float64"),
    "cuda": _KERNEL_DTYPES,
    "sim": _KERNEL_DTYPES,
}


def resolve_device(device: str) -> Device:
    """Turn a user's choice of device into one that exists here.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "sim"}
        ``auto`` is the GPU where there is one that works, and else the CPU. ``sim`` runs the
        GPU's kernels in the simulator.

    Returns
    -------
    {"cpu", "cuda", "sim"}

    Raises
    ------
    DeviceError
        If the device is unknown or cannot be had on this machine.
    """
    if device == "auto":
        return "cpu" if gpu_problem() else "cuda"
    if device not in _DTYPES:
        raise DeviceError(
            f"There is no device {device!r}.", f"Choose one of: auto, {', '.join(_DTYPES)}."
        )
    if device == "cuda" and (problem := gpu_problem()):
        raise DeviceError(
            f"device='cuda' cannot be used: {problem}.",
            "Use device='cpu' (or 'auto'), or 'sim' to run the kernels in the simulator; "
            "`llm-numba doctor` shows what works here.",
        )
    return device


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
    problem = gpu_problem()
    if problem and device is None:
        raise DeviceError(
            f"Kernels cannot run on a GPU here: {problem}.",
            "Set LLM_NUMBA_SIM=1 to run them in the simulator; `llm-numba doctor` shows what "
            "works here.",
        )
    if problem:  # whoever names the GPU is not helped by the environment
        raise DeviceError(
            f"Kernels cannot run on a GPU here: {problem}.",
            "Run this on a machine with a GPU that works; `llm-numba doctor` says what is missing.",
        )
    return "cuda"


def simulation_requested() -> bool:
    """Tell whether the environment asks for the simulator: ``LLM_NUMBA_SIM=1``."""
    return (variables.read("LLM_NUMBA_SIM") or "0") != "0"


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


def visible_gpus() -> tuple[str, ...]:
    """Return the identifiers of the GPUs that this program may use, by its own numbers for them.

    Asks the driver alone, and takes no memory of any GPU.
    """
    import ctypes

    if _why_no_driver():
        return ()
    driver = ctypes.CDLL("libcuda.so.1")
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    identifiers = []
    for number in range(count.value):
        device, identifier = ctypes.c_int(), ctypes.create_string_buffer(16)
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetUuid_v2(identifier, device)
        identifiers.append(identifier.raw.hex())
    return tuple(identifiers)


def use_gpu(number: int) -> None:
    """Make a GPU the one that this thread's arrays and launches are on.

    Parameters
    ----------
    number : int
    """
    import cupy

    cupy.cuda.Device(number).use()


def has_capability(array: Any, capability: tuple[int, int]) -> bool:
    """Tell whether the device of an array has all instructions of a compute capability.

    Parameters
    ----------
    array : array on a device
    capability : tuple of int
        ``(8, 0)``, for one. The simulator has all.
    """
    device = getattr(array, "device", None)
    return device is None or not hasattr(device, "id") or _capability(device.id) >= capability


def is_architecture(array: Any, capability: tuple[int, int]) -> bool:
    """Tell whether the device of an array has one compute capability, no lower and no higher one.

    Parameters
    ----------
    array : array on a device
    capability : tuple of int
        ``(9, 0)``, whose own instructions, those of sm_90a, no other has. The simulator has them.
    """
    device = getattr(array, "device", None)
    return device is None or not hasattr(device, "id") or _capability(device.id) == capability


def stands_for(array: Any, capability: tuple[int, int]) -> bool:
    """Tell whether operations on an array choose the kernels of one architecture.

    Parameters
    ----------
    array : array on a device
    capability : tuple of int
        ``(9, 0)``. The simulator could run all kernels, and most of them take it the longer the
        newer they are. It stands for none of these GPUs unless the environment sets
        ``LLM_NUMBA_SIM_CAPABILITY=9.0``.
    """
    if hasattr(getattr(array, "device", None), "id"):
        return is_architecture(array, capability)
    return variables.read("LLM_NUMBA_SIM_CAPABILITY") == "{}.{}".format(*capability)


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    import cupy

    digits = cupy.cuda.Device(device).compute_capability
    return int(digits[:-1]), int(digits[-1])


def gpu_is_lost() -> bool:
    """Tell whether an error has ended all that this process can do on its GPU.

    Waits for the GPU. Without one, nothing is lost.
    """
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return False
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except Exception:  # whichever error it was, the driver repeats it
        return True
    return False


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


def resolve_dtype(dtype: str | None, device: Device, stored: str = "float32") -> np.dtype:
    """Turn a user's choice of number format into one that the device computes in.

    Parameters
    ----------
    dtype : str or None
        None takes the device's default: float32 on the CPU and in the simulator; on a GPU the
        format that the weights are stored in, if they are stored in 16 bits, and else float32.
    device : str
        As returned by :func:`resolve_device`.
    stored : str
        The format that most weights of the checkpoint are stored in.

    Returns
    -------
    dtype
        The format of activations and of weights in memory. Kernels add up in float32 whatever
        the format.

    Raises
    ------
    DeviceError
        If the device does not compute in that format.
    """
    default = stored if device == "cuda" and stored in _DTYPES[device] else "float32"
    name = default if dtype is None else dtype
    if name not in _DTYPES[device]:
        raise DeviceError(
            f"device={device!r} does not compute in dtype={name!r}.",
            f"Choose one of: {', '.join(_DTYPES[device])}; weights stored in another format are "
            "converted while they load.",
        )
    return np.dtype(name)
