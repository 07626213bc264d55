"""What joins the GPUs of a host: NVLink, or PCI Express and how far around.

Asked is the driver's management library, NVML, which comes with it and with ``nvidia-smi``. It
knows GPUs by their identifiers and takes no memory of any.

Source: NVIDIA, "NVML API Reference Guide", ``nvmlDeviceGetP2PStatus`` and
``nvmlDeviceGetTopologyCommonAncestor``.
"""

import ctypes
import functools
import uuid
from dataclasses import dataclass
from typing import Any

_READ, _NVLINK = 0, 2  # NVML_P2P_CAPS_INDEX_...
# The highest level that is still so near, as NVML numbers them.
_BY_PCIE = ((20, "pcie-switch"), (30, "pcie-host"), (50, "pcie-sockets"))
# Words for people.
TITLES = {
    "nvlink": "NVLink",
    "pcie-switch": "PCIe, by a switch",
    "pcie-host": "PCIe, through the host",
    "pcie-sockets": "PCIe, from socket to socket",
}


@dataclass(frozen=True)
class GPULink:
    """What joins two GPUs.

    Attributes
    ----------
    kind : {"nvlink", "pcie-switch", "pcie-host", "pcie-sockets"}
        The fastest there is.
    readable : bool
        Whether kernels on one of them may read the other's memory.
    """

    kind: str
    readable: bool


def gpu_link(one: str, other: str) -> GPULink | None:
    """Look up the link between two GPUs of this host.

    Parameters
    ----------
    one, other : str
        Identifiers, from :func:`llm_numba.runtime.visible_gpus`.

    Returns
    -------
    GPULink or None
        None if the driver does not say, or a GPU is none of this host.
    """
    nvml, handles = _nvml(), [_handle(each) for each in (one, other)]
    if nvml is None or None in handles:
        return None

    def offers(what: int) -> bool:
        status = ctypes.c_int(-1)
        failed = nvml.nvmlDeviceGetP2PStatus(*handles, what, ctypes.byref(status))
        return not failed and status.value == 0

    readable = offers(_READ)
    if offers(_NVLINK):
        return GPULink("nvlink", readable)
    level = ctypes.c_int()
    if nvml.nvmlDeviceGetTopologyCommonAncestor(*handles, ctypes.byref(level)):
        return None
    return GPULink(next(name for most, name in _BY_PCIE if level.value <= most), readable)


def gpu_name(identifier: str) -> str:
    """Return what the driver calls a GPU of this host; "" if it does not say.

    Parameters
    ----------
    identifier : str
        From :func:`llm_numba.runtime.visible_gpus`.
    """
    nvml, handle = _nvml(), _handle(identifier)
    name = ctypes.create_string_buffer(96)
    if nvml is None or handle is None or nvml.nvmlDeviceGetName(handle, name, len(name)):
        return ""
    return name.value.decode()


@functools.cache
def _nvml() -> Any:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return None if nvml.nvmlInit_v2() else nvml


def _handle(identifier: str) -> ctypes.c_void_p | None:
    nvml, handle = _nvml(), ctypes.c_void_p()
    if nvml is None:
        return None
    name = f"GPU-{uuid.UUID(identifier)}".encode()
    return None if nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)) else handle
