"""Tensor maps: what the copy engine must know of a matrix before it brings tiles of it.

A kernel is given the map and passes it on with the place of a tile. On a GPU the driver writes the
map, 128 bytes. The map holds the address of the matrix. So it goes to the kernel by value, as a
number does: it lies among the arguments of one launch, nothing in the GPU's memory has to be kept
up to date, and a CUDA graph that captures the launch has a copy. A launch that is repeated with
another matrix gets another map (:mod:`llm_numba.runtime.replays`), which is why a
:class:`TensorMap` remembers of which matrix it is. In the simulator a map is an array, with a
layout of its own.

Sources: "CUDA Driver API", ``cuTensorMapEncodeTiled``; "CUDA C++ Programming Guide", "Using TMA to
transfer multi-dimensional arrays" (maps as parameters).
"""

import functools
import struct
from array import array
from typing import Any, NamedTuple

import numpy as np

from llm_numba.errors import KernelArgumentError, LaunchError
from llm_numba.runtime.arrays import SimulatedArray, kind_of, storage_dtype, to_device

WORDS = 16  # of 8 bytes, in a map
_ROW_BYTES = 128  # of a tile: one row of the swizzle
_MOST_ROWS = 256
_ALIGNMENT = 16  # bytes
# What the driver calls each format, which matters only where the engine adds; and its bytes.
_KINDS = {
    "float16": ("FLOAT16", 2),
    "bfloat16": ("BFLOAT16", 2),
    "float32": ("FLOAT32", 4),
    "int8": ("UINT8", 1),
    "uint8": ("UINT8", 1),
}


class MapForm(NamedTuple):
    """All of a tensor map but where its matrix lies.

    Attributes
    ----------
    shape : tuple of int
        M, K.
    dtype : str
        As of :func:`llm_numba.runtime.storage_dtype`.
    rows : int
        Of a tile.
    """

    shape: tuple[int, int]
    dtype: str
    rows: int

    def words(self, address: int) -> "array[int]":
        """Return the map of a matrix of this form.

        Parameters
        ----------
        address : int
            Where it begins.

        Returns
        -------
        array of int64 [16]

        Raises
        ------
        LaunchError
            If the driver refuses.
        """
        return _encoded(address, *self)


class TensorMap:
    """What a launch passes to a kernel for a matrix that the copy engine is to read or write.

    Parameters
    ----------
    matrix : cupy.ndarray [M, K]
        Kept alive.
    rows : int
        Of a tile.

    Attributes
    ----------
    matrix : cupy.ndarray
    form : MapForm
    """

    def __init__(self, matrix: Any, rows: int) -> None:
        self.matrix = matrix
        self.form = MapForm(matrix.shape, storage_dtype(matrix), rows)

    def words(self) -> "array[int]":
        """Return the map of this matrix, as :meth:`MapForm.words` does."""
        return self.form.words(self.matrix.data.ptr)


class SimulatedTensorMap(SimulatedArray):
    """A map of the simulated device: an array of 16 words, where a GPU's kernel takes a value."""


def tensor_map(matrix: Any, rows: int) -> "TensorMap | SimulatedTensorMap":
    """Describe a matrix whose tiles have rows of 128 bytes, in the order of the 128-byte swizzle.

    Parameters
    ----------
    matrix : float16, bfloat16, float32, int8 or uint8 [M, K]
        C-contiguous, on a device; it begins at a multiple of 16 bytes, and so do its rows. A tile
        has 64, 64, 32, 128 or 128 columns of it.
    rows : int
        Of a tile, up to 256.

    Returns
    -------
    TensorMap or SimulatedTensorMap
        For the arguments of a launch.

    Raises
    ------
    KernelArgumentError
        If the copy engine cannot address such a matrix, and why.
    """
    if problem := why_no_map(matrix):
        raise KernelArgumentError(
            f"The copy engine cannot address a matrix: {problem}.",
            "Copy it to a new array of such a format, whose rows are multiples of 16 bytes.",
        )
    if not 1 <= rows <= _MOST_ROWS:
        raise KernelArgumentError(
            f"A tile of {rows} rows was asked for.", f"It has 1 to {_MOST_ROWS}."
        )
    if kind_of(matrix) != "cuda":
        from llm_numba.simulator import bulk

        box = rows, _ROW_BYTES // matrix.itemsize
        return to_device(bulk.encode(matrix, box), "sim").view(SimulatedTensorMap)
    return TensorMap(matrix, rows)


def why_no_map(matrix: Any) -> str | None:
    """Say why the copy engine cannot address a matrix; None if it can.

    Parameters
    ----------
    matrix : array [M, K]
    """
    if storage_dtype(matrix) not in _KINDS:
        return f"its elements are {storage_dtype(matrix)}, not one of {', '.join(_KINDS)}"
    if not matrix.flags.c_contiguous:
        return "it is not C-contiguous"
    if not matrix.size:
        return "it has no elements"
    if matrix.shape[1] * matrix.itemsize % _ALIGNMENT:
        step = _ALIGNMENT // matrix.itemsize
        return f"its rows are {matrix.shape[1]} elements long, no multiple of {step}"
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
def _encoded(address: int, shape: tuple[int, int], dtype: str, rows: int) -> "array[int]":
    """Return the map of what lies at an address, whichever array that is of: it is only numbers."""
    import ctypes

    from cuda.bindings import driver

    size = _KINDS[dtype][1]
    long, word = driver.cuuint64_t, driver.cuuint32_t
    status, encoded = driver.cuTensorMapEncodeTiled(
        _format_of(dtype),
        2,
        address,
        [long(shape[1]), long(shape[0])],
        [long(shape[1] * size)],
        [word(_ROW_BYTES // size), word(rows)],
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
    data = ctypes.string_at(int(encoded.getPtr()), 8 * WORDS)
    return array("q", struct.unpack(f"<{WORDS}q", data))


def _format_of(dtype: str) -> Any:
    """Return the driver's name for a format."""
    from cuda.bindings import driver

    # By attribute: not every version of these enumerations takes a name in brackets.
    return getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{_KINDS[dtype][0]}")
