"""What a register holds: one entry a thread, or one scalar while all threads agree.

=====================  ============================================================
Numba type             register
=====================  ============================================================
bool                   bool
uint64                 uint64
every other integer    int64, its value inside the narrower type's range
float16/32/64, bf16    the same format, and so the formats of 8 bits
complex64/128          the same format
tuple, vector          a Python tuple of registers
range, array, record   a :class:`Range`, or a view
=====================  ============================================================

Integers live in 64 bits because Numba computes nearly all of them there: only an explicit cast, or
a store, makes an integer narrow, and there it wraps.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numba.cuda import types, vector_types
from numba.cuda._internal import cuda_fp8
from numba.cuda.np import numpy_support

INT64, UINT64 = np.dtype(np.int64), np.dtype(np.uint64)
_ML_DTYPES = {
    types.bfloat16: np.dtype(ml_dtypes.bfloat16),
    cuda_fp8._type_fp8_e4m3: np.dtype(ml_dtypes.float8_e4m3fn),
    cuda_fp8._type_fp8_e5m2: np.dtype(ml_dtypes.float8_e5m2),
    cuda_fp8._type_fp8_e8m0: np.dtype(ml_dtypes.float8_e8m0fnu),
}


class Range(NamedTuple):
    """The state of a ``for`` loop over ``range``: the next value, the step, the rounds left."""

    value: Any
    step: Any
    count: Any


def element_dtype(kind: Any) -> np.dtype:
    """Return the NumPy dtype of an array element of a Numba type."""
    if kind in _ML_DTYPES:
        return _ML_DTYPES[kind]
    if isinstance(kind, vector_types.VectorType):
        base = element_dtype(kind.base_type)
        return np.dtype([(name, base) for name in kind.attr_names])
    return np.dtype(numpy_support.as_dtype(kind))


def register_dtype(kind: Any) -> np.dtype | None:
    """Return the dtype of a register of a Numba type; None if it is no number."""
    kind = types.unliteral(kind)
    if isinstance(kind, types.EnumMember):
        kind = kind.dtype
    if isinstance(kind, types.Boolean):
        return np.dtype(bool)
    if isinstance(kind, types.Integer):
        return UINT64 if kind == types.uint64 else INT64
    if kind in _ML_DTYPES or isinstance(kind, types.Float | types.Complex):
        return element_dtype(kind)
    return None


def widen(raw: Any) -> Any:
    """Bring what was read from memory into a register."""
    if raw.dtype.names is not None:
        return tuple(widen(raw[name]) for name in raw.dtype.names)
    kind = raw.dtype.kind
    if kind == "i":
        return raw if raw.dtype == INT64 else raw.astype(INT64)
    if kind == "u" and raw.dtype != UINT64:
        return raw.astype(INT64)
    return raw


def narrow(value: Any, dtype: np.dtype) -> Any:
    """Bring a register into the form of an array's element."""
    if dtype.names is None:
        return value if value.dtype == dtype else value.astype(dtype)
    shape = np.broadcast_shapes(*(np.shape(part) for part in value))
    element = np.empty(shape, dtype)
    for name, part in zip(dtype.names, value, strict=True):
        element[name] = part
    return element[()]


def float_to_int(value: Any, bits: int, signed: bool) -> Any:
    """Truncate as the GPU's ``cvt.rzi`` does: what is out of range saturates.

    There is no conversion to 8 bits: it goes through 16 and wraps. NaN gives 0, but the bit of the
    sign alone if the source or the result has 64 bits (PTX ISA, "cvt").
    """
    if bits == 8:
        return wrap(float_to_int(value, 16, signed), 8, signed)
    marked = bits == 64 or value.dtype == np.float64
    nan = 2 ** (bits - 1) * (-1 if signed else 1) if marked else 0
    return saturate_to_int(value, bits, signed, nan)


def saturate_to_int(value: Any, bits: int, signed: bool, nan: int | None = None) -> Any:
    """Truncate; what is out of range gives the nearest integer that is in.

    Parameters
    ----------
    value : float
    bits : int
    signed : bool
    nan : int, optional
        What NaN gives; by default 0, or the bit of the sign in 64 bits.
    """
    target = UINT64 if bits == 64 and not signed else INT64
    low = -(2 ** (bits - 1)) if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    if nan is None:
        nan = 2**63 * (-1 if signed else 1) if bits == 64 else 0
    truncated = np.trunc(np.asarray(value, np.float64))
    # float(2**63 - 1) is 2**63: what reaches it is set, not converted.
    inside = (truncated > low) & (truncated < float(high))
    result = np.where(inside, truncated, 0).astype(target)
    result = np.where(truncated >= float(high), target.type(high), result)
    result = np.where(truncated <= low, target.type(low), result)
    result = np.where(np.isnan(truncated), target.type(nan), result)
    return result if np.ndim(value) else result[()]


def wrap(value: Any, bits: int, signed: bool) -> Any:
    """Keep the lowest bits of an integer, as a narrow type does; the result is held in 64."""
    narrow = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    return value.astype(narrow).astype(INT64)


def take(value: Any, chosen: np.ndarray) -> Any:
    """Keep the entries of some threads; what all agree on stays one scalar."""
    if isinstance(value, np.ndarray):
        return value[chosen]
    if value is None or isinstance(value, np.generic):
        return value
    if isinstance(value, tuple):
        parts = [take(each, chosen) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if hasattr(value, "take_threads"):
        return value.take_threads(chosen)
    return value


def join(values: Sequence[Any], counts: Sequence[int], order: np.ndarray) -> Any:
    """Put the registers of several groups of threads into one.

    Parameters
    ----------
    values : sequence of registers
        Of each group; None where a group has not set it.
    counts : sequence of int
        Threads of each group.
    order : int [n]
        Where each thread of the new group stands in the groups laid end to end.
    """
    first = next((value for value in values if value is not None), None)
    for value in values:
        if value is not first:
            break
    else:
        return first
    if isinstance(first, tuple):
        unset = (None,) * len(first)
        filled = [unset if value is None else value for value in values]
        columns = [join(column, counts, order) for column in zip(*filled, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else tuple(columns)
    if hasattr(first, "join_threads"):
        return first.join_threads(values, counts, order)
    if _all_equal(values, first):
        return first
    joined, start = np.empty(len(order), first.dtype), 0
    for value, count in zip(values, counts, strict=True):
        # What is None was set on no path that these threads took, so it is read on none that is
        # right.
        joined[start : start + count] = 0 if value is None else value
        start += count
    return joined[order]


def _all_equal(values: Sequence[Any], first: Any) -> bool:
    """Tell whether all groups hold one scalar, the same: NaN equals itself, and 0 not -0."""
    if isinstance(first, np.ndarray):
        return False
    bits = first.tobytes()
    for value in values:
        if value is None or isinstance(value, np.ndarray) or value.tobytes() != bits:
            return False
    return True
