"""Powers, as Numba raises to them: step by step, and so with the roundings of those steps."""

from typing import Any

import numpy as np

from llm_numba.simulator.values import INT64, UINT64, float_to_int

_CUTOFF = 0x10000  # exponents above it go through floating point


def integer_power(base: Any, exponent: Any) -> Any:
    """Raise an int64 or uint64 to an integer.

    Numba multiplies in the integer's own format, which wraps; but its function may return a
    reciprocal as well, so that every result takes a detour through float64 and is exact only up to
    2^53. Zero to a negative power gives the lowest int64.

    Source: ``int_power_impl`` in numba-cuda's ``cpython/numbers.py``.
    """
    dtype = base.dtype
    base, exponent = np.broadcast_arrays(base, exponent)
    negative = exponent < 0
    count = np.where(negative, np.negative(exponent), exponent).astype(UINT64)
    steps = np.where(count > _CUTOFF, UINT64.type(0), count)
    wrapped = _multiply_out(base, steps).astype(np.float64)
    large = np.power(base.astype(np.float64), exponent.astype(np.float64))
    result = float_to_int(np.where(count > _CUTOFF, large, wrapped), 64, dtype == INT64)
    unit = (base == 1) | (base == dtype.type(-1 if dtype == INT64 else 1))
    result = np.where(negative & ~unit, dtype.type(0), result)
    pole = np.array(-(2**63), INT64).astype(dtype)
    return np.where(negative & (base == 0), pole, result)[()]


def _multiply_out(base: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Raise to a power by squaring."""
    result = np.ones_like(base)
    while count.any():
        result = np.where(count & UINT64.type(1), result * base, result)
        count = count >> UINT64.type(1)
        base = base * base
    return result


def repeated_product(base: Any, exponent: Any) -> Any:
    """Raise a float to an integer by squaring in its own format, as ``**`` and ``powi`` do."""
    dtype = base.dtype
    base, exponent = np.broadcast_arrays(base, exponent)
    negative = exponent < 0
    count = np.where(negative, np.negative(exponent), exponent).astype(UINT64)
    product = _multiply_out(base, count)
    return np.where(negative, dtype.type(1) / product, product)[()]


def float_to_integer_power(base: Any, exponent: Any) -> Any:
    """Raise a float to an integer, ``x ** n``; large exponents are those of ``math.pow``.

    The reciprocal of a negative power is taken in float64, because ``1.0`` is one.
    """
    dtype = base.dtype
    base, exponent = np.broadcast_arrays(base, exponent)
    negative = exponent < 0
    count = np.where(negative, np.negative(exponent), exponent).astype(UINT64)
    few = count <= _CUTOFF
    product = _multiply_out(base, np.where(few, count, UINT64.type(0)))
    result = np.where(negative, (1.0 / product.astype(np.float64)).astype(dtype), product)
    if not few.all():
        large = np.power(base.astype(np.float64), exponent.astype(np.float64)).astype(dtype)
        result = np.where(few, result, large)
    return result[()]


def float_power(base: Any, exponent: Any) -> Any:
    """Raise a float to a float."""
    # NumPy takes the square root for an exponent that is the same for all, wrong at -inf.
    base, exponent = np.broadcast_arrays(base, exponent)
    return np.power(base, np.array(exponent))[()]


def complex_power(base: Any, exponent: Any) -> Any:
    """Raise a complex number to another, through modulus and phase.

    Source: CPython's ``_Py_c_pow``, which numba-cuda follows in ``mathimpl.py``.
    """
    dtype = base.dtype
    one = dtype.type(1)
    modulus, phase = np.hypot(base.real, base.imag), np.arctan2(base.imag, base.real)
    turned = exponent.imag != 0
    length = np.power(modulus, exponent.real)
    length = np.where(turned, length / np.exp(phase * exponent.imag), length)
    angle = phase * exponent.real
    angle = np.where(turned, angle + exponent.imag * np.log(modulus), angle)
    result = length * (np.cos(angle) + np.sin(angle) * dtype.type(1j))
    result = np.where((base.real == 0) & (exponent.real == 0), dtype.type(0), result)
    return np.where((exponent.real == 0) & (exponent.imag == 0), one, result).astype(dtype)[()]


def power(base: Any, exponent: Any) -> Any:
    """Raise one number to another, by the way that their formats ask for."""
    if base.dtype.kind == "c":
        return complex_power(base, exponent)
    if base.dtype.kind == "f":
        by_integer = exponent.dtype.kind in "iu"
        return (float_to_integer_power if by_integer else float_power)(base, exponent)
    return integer_power(base, exponent)
