"""What launchers ask of their arguments before anything runs.

A kernel has no errors: an array that is too short, of another format, or in the host's memory
ends in wrong numbers or a dead context. So each public launcher first checks its arguments here,
and a wrong one is named, with what it is and what it must be.
"""

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from llm_numba.errors import KernelArgumentError
from llm_numba.runtime.arrays import kind_of, storage_dtype
from llm_numba.runtime.device import simulation_requested

_INT32_MAX = 2**31 - 1
# Python takes these for numbers, or NumPy makes numbers of them, with a warning at best.
_NO_REAL_NUMBERS = bool | np.bool_ | complex | np.complexfloating | np.ndarray


def array(
    name: str,
    value: Any,
    *,
    ndim: int | Iterable[int] | None = None,
    dtype: str | Iterable[str] | None = ("float32", "float16", "bfloat16"),
    shape: tuple[int | None, ...] | None = None,
    contiguous: bool = True,
    like: Any = None,
) -> None:
    """Check an array argument.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : object
        What the caller passed.
    ndim : int or iterable of int, optional
        Allowed numbers of axes.
    dtype : str or iterable of str, optional
        Allowed storage formats by name; None allows all.
    shape : tuple of (int or None), optional
        Required shape; None stands for any length of an axis.
    contiguous : bool
        Whether the array must be C-contiguous.
    like : array, optional
        An array that was checked before, whose device (and GPU, of several) this one must share.

    Raises
    ------
    KernelArgumentError
        Naming the argument, what it is, and what it must be.
    """
    kind = kind_of(value)
    if kind is None:
        needs = "must be a CuPy array, or an array that runtime.to_device made"
        raise _refusal(name, f"is of type {type(value).__name__}", needs)
    if kind == "host" and not simulation_requested():
        needs = "must be on a device: use runtime.to_device, or set LLM_NUMBA_SIM=1"
        raise _refusal(name, "is a NumPy array in the host's memory", needs)
    if like is not None and (place := _place(value)) != (wanted := _place(like)):
        raise _refusal(name, f"is on {place}", f"must be on {wanted}, like the other arrays")
    if ndim is not None and value.ndim not in (ranks := _as_tuple(ndim)):
        got = f"has {_axes(value.ndim)} (shape {_shape(value.shape)})"
        raise _refusal(name, got, f"must have {_axes(*ranks)}")
    if dtype is not None and storage_dtype(value) not in (formats := _as_tuple(dtype)):
        got = f"has dtype {storage_dtype(value)}"
        raise _refusal(name, got, f"must have dtype {' or '.join(formats)}")
    if shape is not None and not _fits(value.shape, shape):
        got = f"has shape {_shape(value.shape)}"
        raise _refusal(name, got, f"must have shape {_shape(shape)}")
    if contiguous and not value.flags.c_contiguous:
        got = f"has strides {_shape(value.strides)} bytes for shape {_shape(value.shape)}"
        raise _refusal(name, got, "must be C-contiguous, without gaps: copy it first")


def choice(name: str, value: Any, names: Iterable[str]) -> None:
    """Check that an argument is one of several names.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : object
        What the caller passed.
    names : iterable of str
        What is allowed.

    Raises
    ------
    KernelArgumentError
        Naming the argument, what it is, and what it may be.
    """
    allowed = tuple(names)
    if not isinstance(value, str) or value not in allowed:
        raise _refusal(name, f"is {value!r}", f"must be one of: {', '.join(allowed)}")


def number(
    name: str,
    value: Any,
    *,
    finite: bool = False,
    at_least: float | None = None,
) -> float:
    """Check that an argument is a real number.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : object
        What the caller passed.
    finite : bool
        Whether infinities and NaN are refused.
    at_least : float, optional
        The least allowed value.

    Returns
    -------
    float

    Raises
    ------
    KernelArgumentError
        Naming the argument, what it is, and what it must be.
    """
    if isinstance(value, _NO_REAL_NUMBERS) or not hasattr(type(value), "__float__"):
        raise _refusal(name, f"is {_described(value)}", "must be a real number")
    result = float(value)
    if finite and not math.isfinite(result):
        raise _refusal(name, f"is {result}", "must be finite")
    if at_least is not None and not result >= at_least:
        raise _refusal(name, f"is {result}", f"must be at least {at_least}")
    return result


def integer(name: str, value: Any, *, at_least: int = 0, at_most: int = _INT32_MAX) -> int:
    """Check that an argument is an integer within bounds.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : object
        What the caller passed.
    at_least, at_most : int
        The bounds, both allowed.

    Returns
    -------
    int

    Raises
    ------
    KernelArgumentError
        Naming the argument, what it is, and what it must be.
    """
    if isinstance(value, _NO_REAL_NUMBERS) or not hasattr(type(value), "__index__"):
        raise _refusal(name, f"is {_described(value)}", "must be an integer")
    result = operator.index(value)
    if not at_least <= result <= at_most:
        raise _refusal(name, f"is {result}", f"must be from {at_least} to {at_most}")
    return result


def _refusal(name: str, got: str, needs: str) -> KernelArgumentError:
    return KernelArgumentError(f"Argument {name!r} {got}.", f"It {needs}.")


def _place(value: Any) -> str:
    kind = kind_of(value)
    if kind == "cuda":
        return f"GPU {value.device.id}"
    return "the simulated device" if kind == "sim" else "the host"


def _as_tuple(one_or_several: Any) -> tuple:
    return (one_or_several,) if isinstance(one_or_several, int | str) else tuple(one_or_several)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        expected in (None, length) for length, expected in zip(shape, wanted, strict=True)
    )


def _axes(*ranks: int) -> str:
    return " or ".join(map(str, ranks)) + (" axis" if ranks == (1,) else " axes")


def _shape(lengths: tuple[int | None, ...]) -> str:
    inner = ", ".join("any" if length is None else str(length) for length in lengths)
    return f"({inner},)" if len(lengths) == 1 else f"({inner})"


def _described(value: Any) -> str:
    is_array = kind_of(value) is not None
    return f"an array of shape {_shape(value.shape)}" if is_array else repr(value)
