"""What a device has room for, for launches that fill it and no more."""

import functools
from typing import Any, NamedTuple

from llm_numba.runtime.arrays import kind_of


class Room(NamedTuple):
    """What a device has room for.

    Attributes
    ----------
    multiprocessors : int
    shared_bytes : int
        The most that one block may have.
    has_clusters : bool
        Whether blocks can form clusters.
    """

    multiprocessors: int
    shared_bytes: int
    has_clusters: bool


# Two, so that there is more than one; and the shared memory that every GPU has.
SIMULATED = Room(multiprocessors=2, shared_bytes=64 * 1024, has_clusters=True)


def room_of(array: Any) -> Room:
    """Return what the device of an array has room for.

    Parameters
    ----------
    array : array
        On a GPU, or of the simulated device.

    Returns
    -------
    Room
    """
    return _room_of_gpu(array.device.id) if kind_of(array) == "cuda" else SIMULATED


@functools.cache
def _room_of_gpu(device: int) -> Room:
    import cupy

    properties = cupy.cuda.Device(device)
    return Room(
        properties.attributes["MultiProcessorCount"],
        properties.attributes["MaxSharedMemoryPerBlockOptin"],
        has_clusters=int(properties.compute_capability) >= 90,
    )
