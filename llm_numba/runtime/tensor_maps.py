"""Tensor maps: what the copy engine must know of a matrix before it brings tiles of it.

A kernel is given the map, 128 bytes in global memory, and passes it on with the place of a tile. On
a GPU the driver writes the map; in the simulator it has a layout of its own. A map holds the
address of the matrix, and does not keep it alive.

Source: "CUDA Driver API", ``cuTensorMapEncodeTiled``.
"""

import functools
from typing import Any

import numpy as np

from llm_numba.errors import KernelArgumentError, LaunchError
from llm_numba.runtime.arrays import SimulatedArray, kind_of, storage_dtype, to_device

COLUMNS = 64  # of a tile: 128 bytes, one row of the swizzle
_MOST_ROWS = 256
_ALIGNMENT = 16  # bytes


def tensor_map(matrix: Any, rows: int) -> Any:
    """Describe a matrix whose tiles have 64 columns, in the order of the 128-byte swizzle.

    Parameters
    ----------
    matrix : float16 or bfloat16 [M, K]
        C-contiguous, on a device; it begins at a multiple of 16 bytes, and K is one of 8.
    rows : int
        Of a tile, up to 256.

    Returns
    -------
    uint64 [16]
        On the same device. For the same matrix and tile, the same one as long as it is in use.

    Raises
    ------
    KernelArgumentError
        If the copy engine cannot address such a matrix, and why.
    LaunchError
        If the driver refuses.
    """
    if problem := why_no_map(matrix):
        raise KernelArgumentError(
            f"The copy engine cannot address a matrix: {problem}.",
            "Copy it to a new array whose rows are multiples of 16 bytes, of halves.",
        )
    if not 1 <= rows <= _MOST_ROWS:
        raise KernelArgumentError(
            f"A tile of {rows} rows was asked for.", f"It has 1 to {_MOST_ROWS}."
        )
    if kind_of(matrix) != "cuda":
        from llm_numba.simulator import bulk

        return to_device(bulk.encode(matrix, (rows, COLUMNS)), "sim").view(SimulatedArray)
    place = matrix.device.id, matrix.data.ptr
    return _on_gpu(*place, matrix.shape, storage_dtype(matrix), rows)


def why_no_map(matrix: Any) -> str | None:
    """Say why the copy engine cannot address a matrix; None if it can.

    Parameters
    ----------
    matrix : array [M, K]
    """
    if storage_dtype(matrix) not in ("float16", "bfloat16"):
        return f"its elements are {storage_dtype(matrix)}, not float16 or bfloat16"
    if not matrix.flags.c_contiguous:
        return "it is not C-contiguous"
    if not matrix.size:
        return "it has no elements"
    if matrix.shape[1] * matrix.itemsize % _ALIGNMENT:
        return f"its rows are {matrix.shape[1]} elements long, no multiple of 8"
    if address_of(matrix) % _ALIGNMENT:
        return f"it does not begin at a multiple of {_ALIGNMENT} bytes"
    return None


def address_of(array: Any) -> int:
    """Return where an array begins, in its device's memory.

    Parameters
    ----------
    array : cupy.ndarray or ndarray
    """
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


@functools.lru_cache(maxsize=4096)
def _on_gpu(device: int, address: int, shape: tuple[int, int], dtype: str, rows: int) -> Any:
    """Return the map of what lies at an address, whichever array that is of: it is only numbers."""
    import ctypes

    import cupy
    from cuda.bindings import driver

    kinds = driver.CUtensorMapDataType
    kind = {
        "float16": kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        "bfloat16": kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    }[dtype]
    long, word = driver.cuuint64_t, driver.cuuint32_t
    status, encoded = driver.cuTensorMapEncodeTiled(
        kind,
        2,
        address,
        [long(shape[1]), long(shape[0])],
        [long(shape[1] * 2)],
        [word(COLUMNS), word(rows)],
        [word(1), word(1)],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    if status != driver.CUresult.CUDA_SUCCESS:
        raise LaunchError(
            f"The driver makes no tensor map of a matrix {shape} of {dtype}: {status.name}.",
            "Use a step of another ladder, which has no copy engine.",
        )
    words = np.frombuffer(ctypes.string_at(int(encoded.getPtr()), 128), np.uint64)
    with cupy.cuda.Device(device):
        on_device = cupy.asarray(words)
        # Whoever launches next may do so on any stream.
        cupy.cuda.get_current_stream().synchronize()
    return on_device
