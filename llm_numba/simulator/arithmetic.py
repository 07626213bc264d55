"""Casts and operators, as expressions in Python source over registers.

NumPy's operators round and wrap like the hardware's once both operands have the type that Numba's
signature gives them; so most of the work is the cast. Where a product feeds a sum, NVVM contracts
both to one fused multiply-add, which rounds once: so does :func:`fused_multiply_add`.
"""

import operator
from typing import Any

import numpy as np
from numba.cuda import types

from llm_numba.simulator.values import float_to_int, register_dtype, wrap

SYMBOLS = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
    operator.lshift: "<<",
    operator.rshift: ">>",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.neg: "-",
    operator.pos: "+",
    operator.invert: "~",
    operator.iadd: "+",
    operator.isub: "-",
    operator.imul: "*",
    operator.itruediv: "/",
    operator.ifloordiv: "//",
    operator.imod: "%",
    operator.iand: "&",
    operator.ior: "|",
    operator.ixor: "^",
    operator.ilshift: "<<",
    operator.irshift: ">>",
}

# Names that the generated source may use.
NAMESPACE: dict[str, Any] = {
    "np": np,
    "f2": np.dtype(np.float16),
    "f4": np.dtype(np.float32),
    "f8": np.dtype(np.float64),
    "c8": np.dtype(np.complex64),
    "c16": np.dtype(np.complex128),
    "i8": np.dtype(np.int64),
    "u8": np.dtype(np.uint64),
    "b1": np.dtype(bool),
    "wrap": wrap,
    "float_to_int": float_to_int,
}
_NAMES = {value: name for name, value in NAMESPACE.items() if isinstance(value, np.dtype)}


def dtype_name(dtype: np.dtype) -> str:
    """Return the name under which generated source finds a dtype."""
    if dtype not in _NAMES:
        _NAMES[dtype] = f"dtype_{dtype.name}"
        NAMESPACE[_NAMES[dtype]] = dtype
    return _NAMES[dtype]


def cast(source: str, have: Any, want: Any) -> str:
    """Return an expression for a register converted from one Numba type to another."""
    have, want = types.unliteral(have), types.unliteral(want)
    if have == want:
        return source
    if isinstance(have, types.BaseTuple) and isinstance(want, types.BaseTuple):
        parts = [
            cast(f"{source}[{axis}]", one, other)
            for axis, (one, other) in enumerate(zip(have, want, strict=True))
        ]
        return f"({', '.join(parts)},)" if parts else "()"
    from_dtype, to_dtype = register_dtype(have), register_dtype(want)
    if from_dtype is None or to_dtype is None:
        return source
    if to_dtype.kind == "b":
        return f"({source} != 0)"
    if isinstance(want, types.Integer):
        return _cast_to_integer(source, have, want, from_dtype, to_dtype)
    if from_dtype.kind == "c" and to_dtype.kind != "c":
        return f"{source}.real.astype({dtype_name(to_dtype)})"
    return f"{source}.astype({dtype_name(to_dtype)})"


def _cast_to_integer(
    source: str, have: Any, want: Any, from_dtype: np.dtype, to_dtype: np.dtype
) -> str:
    if from_dtype.kind == "b":
        return f"{source}.astype({dtype_name(to_dtype)})"
    if from_dtype.kind not in "iu":
        return f"float_to_int({source}, {want.bitwidth}, {want.signed})"
    if want.bitwidth == 64:
        same = from_dtype == to_dtype
        return source if same else f"{source}.astype({dtype_name(to_dtype)})"
    holds_all = isinstance(have, types.Integer) and (
        want.minval <= have.minval and have.maxval <= want.maxval
    )
    return source if holds_all else f"wrap({source}, {want.bitwidth}, {want.signed})"


def power(base: Any, exponent: Any) -> Any:
    """Raise to a power; a negative integer exponent gives 0, as integer division would."""
    if base.dtype.kind in "iu":
        result = np.power(base, np.maximum(exponent, 0))
        return np.where(np.asarray(exponent) < 0, 0, result).astype(base.dtype)[()]
    return np.power(base, exponent)


def python_modulo(left: Any, right: Any) -> Any:
    """Return the remainder with the sign of the divisor, as Python and Numba define it."""
    return np.mod(left, right)


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once.

    In float32 the product is exact in float64, and the sum there rounds so finely that the second
    rounding almost never shows. In float64 the product's and the sum's rounding errors are
    recovered exactly (Dekker's and Knuth's error-free transformations) and added last.
    """
    dtype = np.result_type(a, b, c)
    if dtype != np.float64:
        wide = np.float64
        return (a.astype(wide) * b.astype(wide) + c.astype(wide)).astype(dtype)
    product = a * b
    high_a, high_b = _upper_half(a), _upper_half(b)
    low_a, low_b = a - high_a, b - high_b
    product_error = low_a * low_b - (
        ((product - high_a * high_b) - low_a * high_b) - high_a * low_b
    )
    total = product + c
    virtual = total - product
    total_error = (product - (total - virtual)) + (c - virtual)
    return np.where(np.isfinite(product_error), total + (total_error + product_error), total)[()]


def _upper_half(x: Any) -> Any:
    scaled = x * 134217729.0  # 2^27 + 1
    return scaled - (scaled - x)


NAMESPACE |= {"power": power, "python_modulo": python_modulo, "fma": fused_multiply_add}
