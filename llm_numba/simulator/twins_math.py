"""Twins of `math`, `cuda.fma` and the like, libdevice and half precision.

A float32 function is computed in float64 and rounded: libdevice's differs from that in the last
bit or two. ``fastmath`` is not imitated.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import fp16, libdevice

from llm_numba.simulator.arithmetic import fused_multiply_add
from llm_numba.simulator.twins import twin

_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)


def _gamma(x: float) -> float:
    try:
        return math.gamma(x)
    except ValueError:  # a pole
        return math.nan
    except OverflowError:
        return math.inf


def _lgamma(x: float) -> float:
    try:
        return math.lgamma(x)
    except (ValueError, OverflowError):
        return math.inf


def _object(function: Callable[[float], float]) -> Callable[[Any], Any]:
    compute = np.frompyfunc(function, 1, 1)
    return lambda x: np.asarray(compute(x), np.float64)


def _round_half_away(x: Any) -> Any:
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": np.sqrt, "rsqrt": lambda x: 1.0 / np.sqrt(x), "cbrt": np.cbrt,
    "exp": np.exp, "exp2": np.exp2, "exp10": lambda x: np.power(10.0, x), "expm1": np.expm1,
    "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "logb": lambda x: np.floor(np.log2(np.abs(x))),
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "sinpi": lambda x: np.sin(np.pi * x), "cospi": lambda x: np.cos(np.pi * x),
    "erf": _object(math.erf), "erfc": _object(math.erfc),
    "tgamma": _object(_gamma), "lgamma": _object(_lgamma),
    "fabs": np.abs, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint,
    "nearbyint": np.rint, "round": _round_half_away,
    "saturate": lambda x: np.clip(np.nan_to_num(x, nan=0.0), 0.0, 1.0),
    "pow": np.power, "powi": np.power, "atan2": np.arctan2, "hypot": np.hypot, "fmod": np.fmod,
    "remainder": lambda x, y: x - y * np.rint(x / y), "copysign": np.copysign,
    "fmax": np.fmax, "fmin": np.fmin, "fdim": lambda x, y: np.maximum(x - y, 0.0),
    "nextafter": np.nextafter, "ldexp": np.ldexp, "fdivide": np.divide, "fdiv": np.divide,
    "min": np.minimum, "max": np.maximum, "abs": np.abs,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "rcp": np.reciprocal,
}  # fmt: skip


def elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function of float64 into a twin that rounds to its operands' format."""

    def compute(lanes: Any, *operands: Any) -> Any:
        wide = [
            each.astype(np.float64)
            if each.dtype.kind == "f" or each.dtype.name == "bfloat16"
            else each
            for each in operands
        ]
        return function(*wide)

    return compute


def _register_math() -> None:
    names = {"gamma": "tgamma"}
    for name in dir(math):
        function = FUNCTIONS.get(names.get(name, name))
        if function is not None and name != "pow":
            twin(getattr(math, name))(elementwise(function))
    twin(math.isnan)(lambda lanes, x: np.isnan(x))
    twin(math.isinf)(lambda lanes, x: np.isinf(x))
    twin(math.isfinite)(lambda lanes, x: np.isfinite(x))
    twin(math.degrees)(elementwise(np.degrees))
    twin(math.radians)(elementwise(np.radians))
    twin(math.modf)(elementwise(np.modf))
    twin(math.frexp)(elementwise(np.frexp))
    twin(round)(_round)


def _round(lanes: Any, x: Any, digits: Any = None) -> Any:
    if digits is None:
        return np.rint(x)
    scale = np.power(10.0, digits)
    return np.rint(x.astype(np.float64) * scale) / scale


def _register_libdevice() -> None:
    """Find libdevice's functions by name: ``fast_expf`` and ``exp`` are both an exponential."""
    for name in dir(libdevice):
        function = getattr(libdevice, name)
        if name.startswith("_") or not callable(function):
            continue
        base = re.sub(r"^fast_", "", name)
        rounding = re.fullmatch(r"[df](\w+)_r[nzud]", base)
        candidates = [base, base.removesuffix("f"), rounding.group(1) if rounding else ""]
        found = next((FUNCTIONS[each] for each in candidates if each in FUNCTIONS), None)
        if found is not None:
            twin(function)(elementwise(found))


def _fma(lanes: Any, a: Any, b: Any, c: Any) -> Any:
    return fused_multiply_add(a, b, c)


def _register_fused() -> None:
    twin(cuda.fma, fp16.hfma)(_fma)
    for name in ("fma", "fmaf", "fma_rn", "fmaf_rn"):
        if hasattr(libdevice, name):
            twin(getattr(libdevice, name))(_fma)
    twin(cuda.cbrt)(elementwise(np.cbrt))


def _register_half() -> None:
    comparisons = {
        "heq": np.equal, "hne": np.not_equal, "hgt": np.greater,
        "hge": np.greater_equal, "hlt": np.less, "hle": np.less_equal,
    }  # fmt: skip
    functions = {
        "hadd": np.add, "hsub": np.subtract, "hmul": np.multiply, "hdiv": np.divide,
        "hneg": np.negative, "habs": np.abs, "hmax": np.fmax, "hmin": np.fmin,
        "hsin": np.sin, "hcos": np.cos, "hlog": np.log, "hlog2": np.log2, "hlog10": np.log10,
        "hexp": np.exp, "hexp2": np.exp2, "hexp10": FUNCTIONS["exp10"], "hsqrt": np.sqrt,
        "hrsqrt": FUNCTIONS["rsqrt"], "hrcp": np.reciprocal, "hfloor": np.floor,
        "hceil": np.ceil, "hrint": np.rint, "htrunc": np.trunc,
    }  # fmt: skip
    for table in (comparisons, functions):
        for name, function in table.items():
            if hasattr(fp16, name):
                twin(getattr(fp16, name))(elementwise(function))


_register_math()
_register_libdevice()
_register_fused()
_register_half()
