"""Twins of `numba.cuda.fp16` and `numba.cuda.bf16`: the C functions of the formats of two bytes.

Each is computed in float64 and rounded once. The ordered comparisons are false for NaN, ``hne`` as
well; the unordered ones, with a u behind their names, are true. Pairs (``__nv_bfloat162``) have no
twins.
"""

import operator
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numba.cuda._internal import cuda_bf16, cuda_fp16

from llm_numba.simulator import bits, special
from llm_numba.simulator.rounding import FLOAT64, from_integer, fused_multiply_add, round_to
from llm_numba.simulator.twins import twin
from llm_numba.simulator.twins_math import computed
from llm_numba.simulator.values import saturate_to_int

_TOWARDS = {"n": np.rint, "z": np.trunc, "d": np.floor, "u": np.ceil}
# C's names of the integers, their bits, and whether they have a sign.
_INTEGERS = {
    "char": (8, True), "uchar": (8, False), "short": (16, True), "ushort": (16, False),
    "int": (32, True), "uint": (32, False), "ll": (64, True), "ull": (64, False),
}  # fmt: skip


def _nan_keeping(choose: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: np.where(np.isnan(x) | np.isnan(y), np.nan, choose(x, y))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "habs": np.abs, "hadd": np.add, "hsub": np.subtract, "hmul": np.multiply, "hdiv": np.divide,
    "hneg": np.negative, "hmax": special.greatest, "hmin": special.least,
    "hmax_nan": _nan_keeping(special.greatest), "hmin_nan": _nan_keeping(special.least),
    "htrunc": np.trunc, "hceil": np.ceil, "hfloor": np.floor, "hrint": np.rint,
    "hsqrt": np.sqrt, "hrsqrt": special.reciprocal_root, "hrcp": np.reciprocal,
    "hlog": np.log, "hlog2": np.log2, "hlog10": np.log10,
    "hexp": np.exp, "hexp2": np.exp2, "hexp10": special.exp10,
    "htanh": np.tanh, "htanh_approx": np.tanh, "hcos": np.cos, "hsin": np.sin,
}  # fmt: skip
_COMPARISONS = {
    "heq": operator.eq, "hne": operator.ne, "hle": operator.le,
    "hge": operator.ge, "hlt": operator.lt, "hgt": operator.gt,
}  # fmt: skip


def _ordered(compare: Callable[..., Any], unordered: bool) -> Callable[..., Any]:
    def test(lanes: Any, x: Any, y: Any) -> Any:
        either = np.isnan(x) | np.isnan(y)
        return compare(x, y) | either if unordered else compare(x, y) & ~either

    return test


def _infinite(lanes: Any, x: Any) -> Any:
    return np.where(np.isinf(x), np.where(np.signbit(x), -1, 1), 0)[()]


def _rounded_saturated(function: Callable[..., Any]) -> Callable[..., Any]:
    def compute(lanes: Any, *operands: Any) -> Any:
        result = function(*operands)
        return special.saturate(result.astype(FLOAT64)).astype(result.dtype)[()]

    return compute


def _fused_positive(lanes: Any, a: Any, b: Any, c: Any) -> Any:
    result = fused_multiply_add(a, b, c)
    return np.where(result <= 0, result.dtype.type(0), result)[()]


class _Format:
    """Registers the twins of one format.

    Parameters
    ----------
    module : module
        Of numba-cuda, with a function for each of C's.
    name : {"half", "bfloat16"}
        In the names of conversions.
    dtype : dtype
    """

    def __init__(self, module: Any, name: str, dtype: np.dtype) -> None:
        self.module = module
        self.name = name
        self.dtype = dtype
        self._arithmetic()
        self._floats()
        for integer, (size, signed) in _INTEGERS.items():
            self._integer(integer, size, signed)

    def _add(self, name: str, function: Callable[..., Any], **options: bool) -> None:
        for form in (name, f"__{name}"):
            found = getattr(self.module, form, None)
            if callable(found):
                twin(found, **options)(function)

    def _arithmetic(self) -> None:
        for name, function in _FUNCTIONS.items():
            self._add(name, computed(function), typed=True)
        for name in ("hadd", "hsub", "hmul"):
            self._add(f"{name}_rn", computed(_FUNCTIONS[name]), typed=True)
            self._add(f"{name}_sat", _rounded_saturated(_FUNCTIONS[name]))
        for name, compare in _COMPARISONS.items():
            self._add(name, _ordered(compare, unordered=False))
            self._add(f"{name}u", _ordered(compare, unordered=True))
        self._add("hisinf", _infinite)
        self._add("hisnan", lambda lanes, x: np.isnan(x))
        self._add("hfma", lambda lanes, a, b, c: fused_multiply_add(a, b, c))
        self._add("hfma_sat", _rounded_saturated(fused_multiply_add))
        self._add("hfma_relu", _fused_positive)

    def _floats(self) -> None:
        name, dtype = self.name, self.dtype
        self._add(f"{name}2float", lambda lanes, x: x.astype(np.float32))
        for source in ("float", "double"):
            self._add(f"{source}2{name}", lambda lanes, x: round_to(x.astype(FLOAT64), dtype))
        for mode in _TOWARDS:
            self._add(
                f"float2{name}_r{mode}",
                lambda lanes, x, mode=mode: round_to(x.astype(FLOAT64), dtype, mode),
            )

    def _integer(self, integer: str, size: int, signed: bool) -> None:
        name, dtype = self.name, self.dtype
        for mode, towards in _TOWARDS.items():
            self._add(
                f"{integer}2{name}_r{mode}",
                lambda lanes, value, mode=mode: from_integer(value, dtype, mode),
            )
            self._add(
                f"{name}2{integer}_r{mode}",
                lambda lanes, x, towards=towards: saturate_to_int(
                    towards(x.astype(FLOAT64)), size, signed
                ),
            )
        if size == 16:
            as_integer = np.int16 if signed else np.uint16
            self._add(f"{name}_as_{integer}", lambda lanes, x: bits.of_float(x, as_integer))
            self._add(
                f"{integer}_as_{name}",
                lambda lanes, value: bits.to_float(value, as_integer, dtype),
            )


_Format(cuda_fp16, "half", np.dtype(np.float16))
_Format(cuda_bf16, "bfloat16", np.dtype(ml_dtypes.bfloat16))
