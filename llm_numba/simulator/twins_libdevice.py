"""Twins of `numba.cuda.libdevice`: CUDA's mathematical functions by their C names.

Most of them Python's functions have too. Here are besides the conversions and the arithmetic with a
direction of rounding in the name, and the integer instructions. libdevice's types are signed even
where the function is not: ``umulhi`` takes and returns the bits of a uint32 in an int32.

Bessel functions (``j0``, ``y1``, ...) have no twin.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda import libdevice

from llm_numba.simulator import bits
from llm_numba.simulator.powers import repeated_product
from llm_numba.simulator.rounding import (
    exactly,
    from_integer,
    fused_multiply_add,
    round_to,
    to_odd,
    two_product,
    two_sum,
)
from llm_numba.simulator.twins import twin
from llm_numba.simulator.twins_math import FUNCTIONS, computed, scale_by_power_of_two
from llm_numba.simulator.values import float_to_int, wrap

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_TOWARDS = {"n": np.rint, "z": np.trunc, "d": np.floor, "u": np.ceil}
_DIRECTIONS = "nzdu"


def _library(name: str, function: Callable[..., Any], **options: bool) -> None:
    """Register a twin; some versions of libdevice lack some functions."""
    if hasattr(libdevice, name):
        twin(getattr(libdevice, name), **options)(function)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda lanes, *operands: function(*operands)


# -- Mathematics ---------------------------------------------------------------------------------


def _register_mathematics() -> None:
    for name, function in FUNCTIONS.items():
        for form in (name, f"{name}f", f"fast_{name}f"):
            _library(form, computed(function), typed=True)
    for name in ("nextafter", "nextafterf"):
        _library(name, _plain(np.nextafter))
    for name in ("ldexp", "ldexpf", "scalbn", "scalbnf"):
        _library(name, scale_by_power_of_two)
    for name in ("powi", "powif"):
        _library(name, _plain(repeated_product))
    for name in ("pow", "powf"):
        _library(name, computed(lambda x, y: np.power(x, np.array(y))), typed=True)
    _library("fast_powf", computed(lambda x, y: np.exp2(y * np.log2(x))), typed=True)
    _library("fast_fdividef", _plain(_fast_divide))
    for suffix in ("", "f"):
        _library(f"ilogb{suffix}", _plain(_integer_exponent))
        _library(f"llrint{suffix}", _plain(lambda x: float_to_int(np.rint(x), 64, signed=True)))
        _library(f"llround{suffix}", _plain(_round_to_int64))
        _library(f"nan{suffix}", lambda lanes, payload: np.float64(np.nan))
    for suffix in "df":
        _library(f"isnan{suffix}", _flag(np.isnan))
        _library(f"isinf{suffix}", _flag(np.isinf))
        _library(f"signbit{suffix}", _flag(np.signbit))
    _library("isfinited", _flag(np.isfinite))
    _library("finitef", _flag(np.isfinite))


def _flag(test: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda lanes, x: np.asarray(test(x)).astype(np.int64)[()]


def _fast_divide(x: Any, y: Any) -> Any:
    """Divide by way of a reciprocal, which is flushed to 0 for the largest divisors."""
    large = (np.abs(y) > 2.0**126) & np.isfinite(y)
    return np.where(large, x * np.float32(0), x / y)[()]


def _integer_exponent(x: Any) -> Any:
    special = ~np.isfinite(x) | (x == 0)
    exponent = np.frexp(x)[1].astype(np.int64) - 1
    lowest, highest = -(2**31), 2**31 - 1
    odd_ones = np.where(np.isinf(x), highest, lowest)
    return np.where(special, odd_ones, exponent)[()]


def _round_to_int64(x: Any) -> Any:
    return float_to_int(FUNCTIONS["round"](x.astype(FLOAT64)), 64, signed=True)


# -- Directed rounding ---------------------------------------------------------------------------


def _in_float32(operation: str, mode: str) -> Callable[..., Any]:
    """Return an operation on float32, done in float64 to odd and then rounded once."""

    def compute(lanes: Any, *operands: Any) -> Any:
        value, error = _STEPS[operation](*(each.astype(FLOAT64) for each in operands))
        result = round_to(to_odd(value, error), FLOAT32, mode)
        if mode == "d" and operation in ("add", "sub", "fma") and np.any(value == 0):
            # Terms that cancel make a negative zero.
            zeros = exactly(operation, mode)(*operands).astype(FLOAT32)
            result = np.where(value == 0, zeros, result)[()]
        return result

    return compute


def _quotient(a: Any, b: Any) -> tuple[Any, Any]:
    """Return a quotient, and a number with the sign of its error."""
    quotient = a / b
    product, low = two_product(quotient, b)
    rest = ((a - product) - low) * np.sign(b)
    return quotient, np.where(np.isfinite(quotient) & np.isfinite(b), rest, 0.0)


def _root(a: Any) -> tuple[Any, Any]:
    root = np.sqrt(a)
    product, low = two_product(root, root)
    return root, np.where(np.isfinite(root), (a - product) - low, 0.0)


_STEPS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "add": two_sum,
    "sub": lambda a, b: two_sum(a, -b),
    "mul": lambda a, b: (a * b, np.float64(0)),  # exact
    "div": _quotient,
    "rcp": lambda a: _quotient(np.ones_like(a), a),
    "sqrt": _root,
    "fma": lambda a, b, c: two_sum(a * b, c),
}


def _register_directed() -> None:
    for mode in _DIRECTIONS:
        for operation in _STEPS:
            single = "fmaf" if operation == "fma" else f"f{operation}"
            double = "fma" if operation == "fma" else f"d{operation}"
            _library(f"{single}_r{mode}", _in_float32(operation, mode))
            _library(f"{double}_r{mode}", _plain(exactly(operation, mode)))
    for name in ("fma", "fmaf"):
        _library(name, _plain(fused_multiply_add))
    _library("frsqrt_rn", computed(FUNCTIONS["rsqrt"]), typed=True)


# -- Conversions ---------------------------------------------------------------------------------

_INTEGERS = {"int": (32, True), "uint": (32, False), "ll": (64, True), "ull": (64, False)}


def _float_to_integer(size: int, signed: bool, mode: str) -> Callable[..., Any]:
    def convert(lanes: Any, x: Any) -> Any:
        return wrap(float_to_int(_TOWARDS[mode](x), size, signed), size, signed=True)

    return convert


def _integer_to_float(size: int, signed: bool, dtype: np.dtype, mode: str) -> Callable[..., Any]:
    def convert(lanes: Any, value: Any) -> Any:
        return from_integer(bits.as_integer(value, size, signed), dtype, mode)

    return convert


def _register_conversions() -> None:
    for mode in _DIRECTIONS:
        _library(f"double2float_r{mode}", _plain(lambda x, mode=mode: round_to(x, FLOAT32, mode)))
        for name, (size, signed) in _INTEGERS.items():
            for source in ("float", "double"):
                _library(f"{source}2{name}_r{mode}", _float_to_integer(size, signed, mode))
            for target, dtype in (("float", FLOAT32), ("double", FLOAT64)):
                function = _integer_to_float(size, signed, dtype, mode)
                _library(f"{name}2{target}_r{mode}", function)
    _library("float_as_int", _plain(lambda x: bits.of_float(x, np.int32)))
    _library("int_as_float", _plain(lambda x: bits.to_float(x, np.int32, np.float32)))
    _library("double_as_longlong", _plain(lambda x: bits.of_float(x, np.int64)))
    _library("longlong_as_double", _plain(lambda x: bits.to_float(x, np.int64, np.float64)))
    _library("double2hiint", _plain(lambda x: bits.of_float(x, np.int64) >> np.int64(32)))
    _library("double2loint", _plain(lambda x: wrap(bits.of_float(x, np.int64), 32, signed=True)))
    _library("hiloint2double", _plain(_join_halves))
    _library("float2half_rn", _plain(lambda x: bits.of_float(x.astype(np.float16), np.int16)))
    _library("half2float", _plain(lambda x: bits.to_float(x, np.int16, np.float16)))


def _join_halves(high: Any, low: Any) -> Any:
    return bits.to_float(high << np.int64(32) | low & np.int64(0xFFFFFFFF), np.int64, np.float64)


# -- Integers ------------------------------------------------------------------------------------


def _unsigned(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    """Turn a function of unsigned numbers into one of the signed ones with the same bits."""

    def compute(lanes: Any, *operands: Any) -> Any:
        plain = [bits.as_integer(each, size, signed=False) for each in operands]
        return wrap(function(*plain), size, signed=True)

    return compute


def _signed(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    return lambda lanes, *operands: wrap(function(*operands), size, signed=True)


def _register_integers() -> None:
    minimum, maximum = np.minimum, np.maximum
    for name, function in {
        "abs": np.abs, "min": minimum, "max": maximum, "sad": lambda a, b, c: np.abs(a - b) + c,
        "mulhi": lambda a, b: a * b >> np.int64(32),
        "mul24": lambda a, b: bits.sign_extend(a, 24) * bits.sign_extend(b, 24),
        "hadd": lambda a, b: a + b >> np.int64(1), "rhadd": lambda a, b: a + b + 1 >> np.int64(1),
    }.items():  # fmt: skip
        _library(name, _signed(function, 32))
    for name, function in {
        "umin": minimum, "umax": maximum, "usad": lambda a, b, c: np.abs(a - b) + c,
        "umulhi": lambda a, b: a.astype(np.uint64) * b.astype(np.uint64) >> np.uint64(32),
        "umul24": lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF),
        "uhadd": lambda a, b: a + b >> np.int64(1), "urhadd": lambda a, b: a + b + 1 >> np.int64(1),
        "brev": lambda a: bits.reverse(a, 32), "popc": lambda a: bits.population(a, 32),
        "byte_perm": bits.permute_bytes,
    }.items():  # fmt: skip
        _library(name, _unsigned(function, 32))
    for name, function in {
        "llabs": np.abs, "llmin": minimum, "llmax": maximum, "mul64hi": bits.multiply_high,
    }.items():  # fmt: skip
        _library(name, _plain(function))
    for name, function in {
        "ullmin": minimum, "ullmax": maximum, "umul64hi": bits.multiply_high_unsigned,
        "brevll": lambda a: bits.reverse(a, 64),
    }.items():  # fmt: skip
        _library(name, _unsigned(function, 64))
    for suffix, size in (("", 32), ("ll", 64)):
        _library(f"clz{suffix}", _plain(lambda a, size=size: bits.leading_zeros(a, size)))
        _library(f"ffs{suffix}", _plain(lambda a, size=size: bits.first_set(a, size)))
    _library("popcll", _plain(lambda a: bits.population(a, 64)))


_register_mathematics()
_register_directed()
_register_conversions()
_register_integers()
