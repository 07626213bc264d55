"""Twins of `math`, `cmath` and Python's own functions of numbers.

A function of float32 is computed in float64 and rounded once; libdevice's own errors, a few units
in the last place, and ``fastmath`` are not imitated. What is defined step by step, such as
``round(x, 2)``, takes the same steps here.
"""

import cmath
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from llm_numba.simulator import special
from llm_numba.simulator.arithmetic import conform, floor_divide
from llm_numba.simulator.powers import power, repeated_product
from llm_numba.simulator.rounding import FLOAT64, fused_multiply_add
from llm_numba.simulator.twins import twin
from llm_numba.simulator.values import float_to_int, register_dtype, wrap

# Names as in libdevice, there with an f behind them for float32.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": np.sqrt, "rsqrt": special.reciprocal_root, "cbrt": np.cbrt,
    "exp": np.exp, "exp2": np.exp2, "exp10": special.exp10, "expm1": np.expm1,
    "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "logb": special.binary_exponent,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "sinpi": special.sin_pi, "cospi": special.cos_pi,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "erf": special.erf, "erfc": special.erfc, "erfcx": special.erfcx,
    "erfinv": special.erfinv, "erfcinv": special.erfcinv,
    "normcdf": special.normal_cdf, "normcdfinv": special.normal_quantile,
    "tgamma": special.gamma, "lgamma": special.log_gamma,
    "fabs": np.abs, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint,
    "nearbyint": np.rint, "round": special.round_half_away, "saturate": special.saturate,
    "hypot": np.hypot, "fmod": np.fmod, "remainder": special.remainder,
    "copysign": np.copysign, "fdim": special.positive_difference,
    "fmax": special.greatest, "fmin": special.least, "modf": np.modf, "frexp": np.frexp,
    "sincos": lambda x: (np.sin(x), np.cos(x)),
    "sincospi": lambda x: (special.sin_pi(x), special.cos_pi(x)),
    "remquo": special.remainder_and_quotient,
    "rcbrt": lambda x: 1.0 / np.cbrt(x),
}  # fmt: skip


def shaped(value: Any, kind: Any) -> Any:
    """Give what was computed the types of a Numba type: a number's, or those of a tuple's items."""
    if isinstance(kind, types.BaseTuple):
        return tuple(shaped(one, each) for one, each in zip(value, kind, strict=True))
    return conform(value, register_dtype(kind))


def computed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function of float64 into a twin; register it as ``typed``."""

    def compute(lanes: Any, *operands: Any, signature: Any) -> Any:
        wide = [each if each.dtype.kind == "c" else each.astype(FLOAT64) for each in operands]
        return shaped(function(*wide), signature.return_type)

    return compute


# -- math ----------------------------------------------------------------------------------------


def _register_math() -> None:
    names = {"gamma": "tgamma"}
    for name in dir(math):
        function = FUNCTIONS.get(names.get(name, name))
        if function is not None:
            twin(getattr(math, name), typed=True)(computed(function))
    twin(math.isnan)(lambda lanes, x: np.isnan(x))
    twin(math.isinf)(lambda lanes, x: np.isinf(x))
    twin(math.isfinite)(lambda lanes, x: np.isfinite(x))
    twin(math.nextafter)(lambda lanes, x, y: np.nextafter(x, y))
    twin(math.degrees, typed=True)(_scaled(180 / math.pi))
    twin(math.radians, typed=True)(_scaled(math.pi / 180))
    twin(cuda.cbrt, typed=True)(computed(np.cbrt))
    twin(cuda.fma)(lambda lanes, a, b, c: fused_multiply_add(a, b, c))


def _scaled(factor: float) -> Callable[..., Any]:
    def compute(lanes: Any, x: Any, *, signature: Any) -> Any:
        dtype = register_dtype(signature.return_type)
        return conform(x, dtype) * dtype.type(factor)

    return compute


@twin(math.ldexp)
def scale_by_power_of_two(lanes: Any, x: Any, exponent: Any) -> Any:
    """Return x times a power of two, rounded once in x's own format."""
    limited = np.clip(exponent, -(2**14), 2**14).astype(np.int32)
    return np.ldexp(x, limited)


@twin(math.pow, typed=True)
def _math_pow(lanes: Any, base: Any, exponent: Any, *, signature: Any) -> Any:
    if base.dtype.kind == "f" and exponent.dtype.kind == "i":
        return repeated_product(base, exponent)
    wide = [each.astype(FLOAT64) for each in (base, exponent)]
    return shaped(power(*wide), signature.return_type)


# -- Python's own --------------------------------------------------------------------------------


@twin(pow, typed=True)
def _pow(lanes: Any, base: Any, exponent: Any, *, signature: Any) -> Any:
    dtype = register_dtype(signature.return_type)
    return conform(power(conform(base, dtype), exponent), dtype)


@twin(divmod, typed=True)
def _divmod(lanes: Any, left: Any, right: Any, *, signature: Any) -> Any:
    dtype = register_dtype(signature.return_type[0])
    left, right = conform(left, dtype), conform(right, dtype)
    quotient = floor_divide(left, right) if dtype == np.int64 else left // right
    return quotient, left % right


@twin(abs, typed=True)
def _abs(lanes: Any, x: Any, *, signature: Any) -> Any:
    kind = signature.return_type
    if isinstance(kind, types.Integer) and kind.bitwidth < 64:
        return wrap(np.abs(x), kind.bitwidth, kind.signed)
    return np.abs(x)


def _extremum(compare: Callable[..., Any], of_floats: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``min`` or ``max``.

    Two floats go to the hardware's instruction, which prefers a number to NaN; with more operands,
    or an integer among them, Numba compares one after the other with the best so far.
    """

    def choose(lanes: Any, *operands: Any, signature: Any) -> Any:
        dtype = register_dtype(signature.return_type)
        if isinstance(operands[0], tuple):
            operands = operands[0]
        result, *others = [conform(each, dtype) for each in operands]
        if len(others) == 1 and all(each.dtype.kind not in "iub" for each in operands):
            return of_floats(result, others[0])
        for other in others:
            result = np.where(compare(other, result), other, result)[()]
        return result

    return choose


@twin(round)
def _round(lanes: Any, x: Any, digits: Any = None) -> Any:
    if digits is None:
        return float_to_int(np.rint(x.astype(FLOAT64)), 64, signed=True)
    return _round_to_digits(x, digits)


def _round_to_digits(x: Any, digits: Any) -> Any:
    """Round to a decimal place.

    The scaled number goes through int64, which saturates and forgets the sign of zero.

    Source: ``round_to_impl`` in numba-cuda's ``cudaimpl.py``, which follows CPython's
    ``double_round``.
    """
    ten = np.float64(10.0)
    extra = np.maximum(digits - 22, 0)
    scale = repeated_product(ten, np.where(digits >= 0, np.minimum(digits, 22), -digits))
    # Beyond 10^22 the two factors change their parts: the large one is the constant.
    first = np.where(extra > 0, repeated_product(ten, extra), scale)
    second = np.where(extra > 0, 1e22, 1.0)
    up = x.astype(FLOAT64) * first * second
    scaled = np.where(digits >= 0, up, x / first)
    whole = _nearest_integer(scaled)
    halfway = np.abs(scaled - whole) == 0.5
    whole = np.where(halfway, 2.0 * _nearest_integer(scaled / 2.0), whole)
    result = np.where(digits >= 0, whole / second / first, whole * first)
    kept = ~np.isfinite(x) | (np.isinf(up) & (digits >= 0))
    return np.where(kept, x, result).astype(x.dtype)[()]


def _nearest_integer(x: Any) -> Any:
    return float_to_int(np.rint(x), 64, signed=True).astype(FLOAT64)


# -- Complex numbers -----------------------------------------------------------------------------


def _register_complex() -> None:
    for name in (
        *("exp", "log", "log10", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh"),
        *("asin", "acos", "atan", "asinh", "acosh", "atanh"),
    ):
        twin(getattr(cmath, name), typed=True)(computed(FUNCTIONS[name]))
    twin(cmath.isnan)(lambda lanes, z: np.isnan(z))
    twin(cmath.isinf)(lambda lanes, z: np.isinf(z))
    twin(cmath.isfinite)(lambda lanes, z: np.isfinite(z))
    twin(cmath.phase)(lambda lanes, z: np.angle(z))
    twin(cmath.polar)(lambda lanes, z: (np.abs(z), np.angle(z)))
    twin(cmath.rect)(_from_polar)


def _from_polar(lanes: Any, radius: Any, phase: Any) -> Any:
    return radius * np.cos(phase) + radius * np.sin(phase) * np.complex64(1j)


_register_math()
_register_complex()
twin(min, typed=True)(_extremum(operator.lt, special.least))
twin(max, typed=True)(_extremum(operator.gt, special.greatest))
