"""Arrays of a device, which is a GPU or the simulator.

On a GPU they are CuPy's. In the simulator they are NumPy's, marked by a subclass of their own: a
kernel cannot take the host's memory for the device's, as it cannot on a GPU.
bfloat16 is ``ml_dtypes.bfloat16`` in both. Numba has no such number among its arrays: a kernel
sees its bits as uint16, through :func:`kernel_view`.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from llm_numba.errors import KernelArgumentError
from llm_numba.runtime.device import kernel_device

Array = Any  # cupy.ndarray or SimulatedArray; CuPy may not be installed
Kind = Literal["cuda", "sim", "host"]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_ALIGNMENT = 256  # bytes; cudaMalloc promises as much
_PACKET_BYTES = 16  # the widest load of a thread
# As float32, float16 and bfloat16 this is NaN, as a signed integer -1.
_POISON = 0xFF

Allocate = Callable[[int | tuple[int, ...], DTypeLike], Array]
_allocate: ContextVar[Allocate | None] = ContextVar("allocate", default=None)
_note: ContextVar[Callable[[Array], None] | None] = ContextVar("note", default=None)


class SimulatedArray(np.ndarray):
    """Memory of the simulated device.

    Views of it, and what NumPy's arithmetic makes of it, are memory of the simulated device too.
    """

    # Above a plain array's: np.concatenate and its like return the class of the highest.
    __array_priority__ = 1.0


def kind_of(value: object) -> Kind | None:
    """Tell whose memory an array lies in.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    {"cuda", "sim", "host", None}
        ``"cuda"`` for CuPy arrays, ``"sim"`` for :class:`SimulatedArray`, ``"host"`` for other
        NumPy arrays, None for all else.
    """
    return _kind_of_type(type(value))


@functools.cache
def _kind_of_type(kind: type) -> Kind | None:
    # Launchers ask some thirty times a launch.
    if issubclass(kind, SimulatedArray):
        return "sim"
    if issubclass(kind, np.ndarray):
        return "host"
    # Where nobody imported CuPy, nothing is an array of CuPy.
    cupy = sys.modules.get("cupy")
    return "cuda" if cupy is not None and issubclass(kind, cupy.ndarray) else None


def is_device_array(value: object) -> bool:
    """Tell whether a value is an array of a device, real or simulated.

    Parameters
    ----------
    value : object
        Anything.
    """
    return kind_of(value) in ("cuda", "sim")


def to_device(array: np.ndarray, device: str | None = None) -> Array:
    """Copy an array to a device.

    Parameters
    ----------
    array : ndarray
        Of any shape and dtype.
    device : {"cuda", "sim"}, optional
        By default the simulator if the environment sets ``LLM_NUMBA_SIM=1``, else the GPU.

    Returns
    -------
    cupy.ndarray or SimulatedArray
        A copy in the same order (C or Fortran) as far as the array has one.

    Raises
    ------
    DeviceError
        If there is no such device here.
    """
    if kernel_device(device) == "cuda":
        import cupy

        return cupy.array(array)
    array = np.asarray(array)
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    copy = _poisoned(array.shape, array.dtype, order)
    copy[...] = array
    return copy.view(SimulatedArray)


def upload(arrays: Sequence[np.ndarray], like: Array) -> list[Array]:
    """Bring several small arrays to where another lies, in one copy.

    Each copy costs some 10 microseconds before its first byte: a step that uploads a dozen short
    lists one by one waits longer for them than for its kernels.

    Parameters
    ----------
    arrays : sequence of ndarray
        Of any shapes and dtypes.
    like : cupy.ndarray, SimulatedArray or ndarray
        The copies lie where this one does.

    Returns
    -------
    list of cupy.ndarray, SimulatedArray or ndarray
        Views of one allocation, each aligned for loads of 16 bytes; for the host, the arrays
        themselves.

    Raises
    ------
    KernelArgumentError
        If `like` is not an array.
    """
    kind = kind_of(like)
    if kind is None:
        raise _no_array("like", like)
    if kind == "host":
        return list(arrays)
    places, end = [], 0
    for array in arrays:
        places.append(slice(end, end + array.nbytes))
        end += -(-array.nbytes // _PACKET_BYTES) * _PACKET_BYTES
    packed = np.zeros(end, np.uint8)
    for array, place in zip(arrays, places, strict=True):
        packed[place] = np.frombuffer(array.tobytes(), np.uint8)
    there = to_device(packed, kind)
    return [
        there[place].view(array.dtype).reshape(array.shape)
        for array, place in zip(arrays, places, strict=True)
    ]


def write_to(out: Array, array: np.ndarray) -> None:
    """Write an array of the host into one of any device, in the latter's format.

    Parameters
    ----------
    out : cupy.ndarray, SimulatedArray or ndarray
        C-contiguous.
    array : ndarray
        Of the same shape, and of any format and order.
    """
    if kind_of(out) == "cuda":
        out.set(np.ascontiguousarray(array, out.dtype))
    else:
        out[...] = array


def zeros(shape: int | tuple[int, ...], dtype: DTypeLike, device: str) -> Array:
    """Allocate an array of zeros.

    Off the GPU the operating system hands its pages out only when they are first written.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : dtype-like
        Of NumPy's, or "bfloat16".
    device : {"cpu", "cuda", "sim"}

    Returns
    -------
    cupy.ndarray, SimulatedArray or ndarray
        C-contiguous.

    Raises
    ------
    DeviceError
        If there is no such device here.
    """
    dtype = np.dtype(dtype)
    if device == "cpu":
        return np.zeros(shape, dtype)
    if kernel_device(device) == "cuda":
        import cupy

        return cupy.zeros(shape, dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    return _aligned(np.zeros(size + _ALIGNMENT, np.uint8), shape, dtype, "C").view(SimulatedArray)


def empty(shape: int | tuple[int, ...], dtype: DTypeLike, like: Array) -> Array:
    """Allocate an array without setting its elements.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : dtype-like
        Of NumPy's, or "bfloat16".
    like : cupy.ndarray, SimulatedArray or ndarray
        The new array lies where this one does.

    Returns
    -------
    cupy.ndarray, SimulatedArray or ndarray
        C-contiguous. Off the GPU it holds NaN (-1 as integers), so that what a kernel forgot to
        write shows.

    Raises
    ------
    KernelArgumentError
        If `like` is not an array.
    """
    kind = kind_of(like)
    if kind == "cuda":
        with like.device:
            array = allocate(shape, np.dtype(dtype))
        if note := _note.get():
            note(array)
        return array
    if kind is None:
        raise _no_array("like", like)
    array = _poisoned(shape, np.dtype(dtype), "C")
    return array.view(SimulatedArray) if kind == "sim" else array


def allocate(shape: int | tuple[int, ...], dtype: np.dtype) -> Array:
    """Allocate memory of the current GPU, from CuPy's pool or where :func:`allocating_by` says.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : dtype

    Returns
    -------
    cupy.ndarray
    """
    import cupy

    return (_allocate.get() or cupy.empty)(shape, dtype)


@contextlib.contextmanager
def noting_allocations(note: Callable[[Array], None]) -> Iterator[None]:
    """Show to a function what :func:`empty` allocates on a GPU.

    Holds for this thread (and asynchronous task) alone.

    Parameters
    ----------
    note : callable
        Takes the array.
    """
    token = _note.set(note)
    try:
        yield
    finally:
        _note.reset(token)


@contextlib.contextmanager
def allocating_by(allocate: Allocate) -> Iterator[None]:
    """Let :func:`empty` get memory of a GPU from somewhere else than CuPy's pool.

    Parameters
    ----------
    allocate : callable(shape, dtype) -> cupy.ndarray
        See :class:`llm_numba.runtime.Arena`.
    """
    token = _allocate.set(allocate)
    try:
        yield
    finally:
        _allocate.reset(token)


def empty_like(array: Array) -> Array:
    """Allocate a C-contiguous array of the shape, dtype and device of another.

    Parameters
    ----------
    array : cupy.ndarray, SimulatedArray or ndarray
    """
    return empty(array.shape, array.dtype, like=array)


def to_host(array: Array) -> np.ndarray:
    """Copy an array to the host, waiting for the work that fills it.

    Parameters
    ----------
    array : cupy.ndarray, SimulatedArray or ndarray

    Returns
    -------
    ndarray
        A copy, of the same shape and dtype.

    Raises
    ------
    KernelArgumentError
        If it is not an array.
    """
    kind = kind_of(array)
    if kind == "cuda":
        import cupy

        return cupy.asnumpy(array)
    if kind is None:
        raise _no_array("array", array)
    return np.array(array, subok=False)


def storage_dtype(array: Array) -> str:
    """Return the name of an array's number format in memory.

    Parameters
    ----------
    array : cupy.ndarray, SimulatedArray or ndarray

    Returns
    -------
    str
        "float32", "float16", "bfloat16", "int32", and so on.
    """
    return _name(array.dtype)


@functools.cache
def _name(dtype: np.dtype) -> str:
    # NumPy spells the name out anew each time, and launchers ask for each of their operands.
    return dtype.name


def kernel_view(array: Array) -> Array:
    """Return an array as a kernel sees it: bfloat16 as uint16, all else unchanged.

    Parameters
    ----------
    array : cupy.ndarray, SimulatedArray or ndarray

    Returns
    -------
    cupy.ndarray, SimulatedArray or ndarray
        A view of the same memory.
    """
    return array.view(np.uint16) if array.dtype == _BFLOAT16 else array


def _no_array(name: str, value: object) -> KernelArgumentError:
    return KernelArgumentError(
        f"Argument {name!r} is of type {type(value).__name__}, which is no array.",
        "It must be an array of a device: to_device(numpy_array).",
    )


def _poisoned(
    shape: int | tuple[int, ...], dtype: np.dtype, order: Literal["C", "F"]
) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    return _aligned(np.full(size + _ALIGNMENT, _POISON, np.uint8), shape, dtype, order)


def _aligned(
    memory: np.ndarray, shape: int | tuple[int, ...], dtype: np.dtype, order: Literal["C", "F"]
) -> np.ndarray:
    # Aligned as on a GPU, so that loads of 16 bytes find the same alignment there and here.
    size = memory.size - _ALIGNMENT
    start = -memory.ctypes.data % _ALIGNMENT
    # Behind a memoryview the piece is an allocation of its own to whoever asks for its base.
    piece = np.frombuffer(memory.data, np.uint8, size, start) if size else np.empty(0, np.uint8)
    return piece.view(dtype).reshape(shape, order=order)
