"""Roundings that NumPy lacks: directed ones, and of what is computed exactly first.

Two tools do it without a loop. An *error-free transformation* gives, beside a rounded sum or
product, the error of its rounding (Dekker 1971; Knuth, TAOCP vol. 2, 4.2.2). *Rounding to odd*
keeps an inexact result's last bit set, so that a second rounding to a format at least two bits
shorter comes out as if it were the only one (Boldo and Melquiond, "Emulation of a FMA and
correctly rounded sums", IEEE TC 57 (2008)). Where float64 itself must round another way, exact
rational arithmetic does it, one number after the other.

Modes are named as in PTX: ``n`` to nearest even, ``z`` towards zero, ``d`` down, ``u`` up.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

FLOAT64 = np.dtype(np.float64)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Of a float64 between two neighbours of a shorter format these bits are zero, halfway or not.
_BELOW_SHORTER = np.int64((1 << 28) - 1)
# Within these bounds no step of the fused multiply-add in float64 overflows or loses a bit.
_LARGE, _SMALL = 2.0**990, 2.0**-900


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """Return a + b rounded, and the error of that."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """Return a b rounded to float64, and the error of that."""
    product = a * b
    high_a, high_b = _upper_half(a), _upper_half(b)
    low_a, low_b = a - high_a, b - high_b
    rest = ((product - high_a * high_b) - low_a * high_b) - high_a * low_b
    return product, low_a * low_b - rest


def _upper_half(x: Any) -> Any:
    scaled = x * 134217729.0  # 2^27 + 1
    return scaled - (scaled - x)


def to_odd(value: Any, error: Any) -> Any:
    """Round a float64 that has an error to odd."""
    bits = np.asarray(value).view(np.int64)
    away = (error > 0) == (value > 0)
    moved = np.where(away, bits | 1, np.where(bits & 1, bits, bits - 1))
    inexact = (error != 0) & np.isfinite(value) & np.isfinite(error)
    return np.where(inexact, moved, bits).view(FLOAT64)[()]


def round_to(value: Any, dtype: np.dtype, mode: str = "n") -> Any:
    """Round a float64 to a shorter format.

    Parameters
    ----------
    value : float64
    dtype : dtype
        float32, float16 or bfloat16; float64 leaves it as it is.
    mode : {"n", "z", "d", "u"}
    """
    if dtype == FLOAT64:
        return value
    nearest = _nearest(value, dtype)
    if mode == "n":
        return nearest
    back = nearest.astype(FLOAT64)
    return _step(nearest, back > value, back < value, mode)


def _nearest(value: Any, dtype: np.dtype) -> Any:
    if dtype != _BFLOAT16:
        return value.astype(dtype)
    # ml_dtypes goes by way of float32: a second rounding, unless the first is to odd.
    single = value.astype(np.float32)
    bits = np.asarray(single).view(np.int32)
    back = single.astype(FLOAT64)
    grow = (np.abs(back) < np.abs(value)) & ((bits & 1) == 0)
    shrink = (np.abs(back) > np.abs(value)) & ((bits & 1) == 0)
    odd = np.where(grow, bits + 1, np.where(shrink & np.isfinite(single), bits - 1, bits))
    return odd.view(np.float32).astype(dtype)[()]


def _step(nearest: Any, above: Any, below: Any, mode: str) -> Any:
    """Go from the nearest number to the neighbour that a mode wants."""
    down, up = nearest.dtype.type(-np.inf), nearest.dtype.type(np.inf)
    if mode == "z":
        above, below = above & (nearest > 0), below & (nearest < 0)
    if mode in "zd":
        nearest = np.where(above, np.nextafter(nearest, down), nearest)
    if mode in "zu":
        nearest = np.where(below, np.nextafter(nearest, up), nearest)
    return nearest[()]


def from_integer(value: Any, dtype: np.dtype, mode: str = "n") -> Any:
    """Round an int64 or uint64 to a floating-point format."""
    high = (value >> value.dtype.type(32)).astype(FLOAT64) * 2.0**32
    low = (value & value.dtype.type(0xFFFFFFFF)).astype(FLOAT64)
    nearest, error = two_sum(high, low)
    if dtype == FLOAT64:
        return _step(nearest, error < 0, error > 0, mode) if mode != "n" else nearest
    return round_to(to_odd(nearest, error), dtype, mode)


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once to the operands' format."""
    dtype = a.dtype
    if dtype == FLOAT64:
        return _fused_in_float64(a, b, c)
    product = a.astype(FLOAT64) * b.astype(FLOAT64)  # exact
    addend = c.astype(FLOAT64)
    total, error = two_sum(product, addend)
    if np.any(error) and (total.view(np.int64) & _BELOW_SHORTER == 0).any():
        total = to_odd(total, error)
    return _nearest(total, dtype)


def _fused_in_float64(a: Any, b: Any, c: Any) -> Any:
    product, low = two_product(a, b)
    high, error = two_sum(c, low)
    total, rest = two_sum(product, high)
    result = total + to_odd(*two_sum(error, rest))
    size = np.abs(product)
    tame = (np.abs(a) < _LARGE) & (np.abs(b) < _LARGE) & (np.abs(c) < _LARGE) & (size < _LARGE)
    tame &= (size > _SMALL) | (a == 0) | (b == 0)
    if np.all(tame):
        # A total of zero has lost the sign that a plain sum gives it.
        return np.where(result == 0, product + c, result)[()]
    exact = exactly("fma", "n")(a, b, c)
    return np.where(tame & (result != 0), result, exact)[()]


# -- Exact arithmetic, for the roundings of float64 that are not to nearest ------------------------


def _square_root(x: Fraction) -> Fraction:
    """Return the root cut off behind 64 bits, and a bit more if it was cut off."""
    length = x.numerator.bit_length() - x.denominator.bit_length()
    shift = 2 * max(0, 65 - length // 2)
    scaled, rest = divmod(x.numerator << shift, x.denominator)
    root = math.isqrt(scaled)
    inexact = rest != 0 or root * root != scaled
    return Fraction(4 * root + inexact, 4 << (shift // 2))


_EXACT: dict[str, Callable[..., Fraction]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "rcp": lambda a: 1 / a,
    "sqrt": _square_root,
    "fma": lambda a, b, c: a * b + c,
}
_PLAIN: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
    "fma": lambda a, b, c: a * b + c,
}


def exactly(operation: str, mode: str) -> Callable[..., Any]:
    """Return an operation on float64 that rounds in a mode.

    Parameters
    ----------
    operation : {"add", "sub", "mul", "div", "rcp", "sqrt", "fma"}
    mode : {"n", "z", "d", "u"}
    """
    plain, compute = _PLAIN[operation], _EXACT[operation]

    def one(*operands: float) -> float:
        usual = float(plain(*map(np.float64, operands)))
        if not all(map(math.isfinite, operands)) or _undefined(operation, operands):
            # The plain form of a fused one may overflow before it meets its third operand.
            fused = operation == "fma" and all(map(math.isfinite, operands[:2]))
            return operands[2] if fused else usual
        exact = compute(*map(Fraction, operands))
        if exact == 0:
            cancelled = operation in ("add", "sub", "fma") and math.copysign(1.0, usual) > 0
            negative = mode == "d" and cancelled and _cancels(operation, operands)
            return -0.0 if negative else usual
        return _round_fraction(exact, mode)

    elementwise = np.frompyfunc(one, compute.__code__.co_argcount, 1)
    return lambda *operands: np.asarray(elementwise(*operands), FLOAT64)[()]


def _undefined(operation: str, operands: tuple[float, ...]) -> bool:
    if operation == "sqrt":
        return operands[0] <= 0
    return operation in ("div", "rcp") and operands[-1] == 0


def _cancels(operation: str, operands: tuple[float, ...]) -> bool:
    """Tell whether a zero comes of two terms of different signs."""
    *first, last = operands
    sign = math.prod(math.copysign(1.0, each) for each in first)
    return sign != math.copysign(1.0, -last if operation == "sub" else last)


def _round_fraction(exact: Fraction, mode: str) -> float:
    try:
        nearest = float(exact)
    except OverflowError:
        nearest = math.inf if exact > 0 else -math.inf
    above = nearest == math.inf or (nearest != -math.inf and Fraction(nearest) > exact)
    below = nearest == -math.inf or (nearest != math.inf and Fraction(nearest) < exact)
    if above and (mode == "d" or (mode == "z" and exact > 0)):
        return math.nextafter(nearest, -math.inf)
    if below and (mode == "u" or (mode == "z" and exact < 0)):
        return math.nextafter(nearest, math.inf)
    if nearest == 0:
        return 0.0 if exact > 0 else -0.0
    return nearest
