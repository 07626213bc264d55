"""Casts and operators, as expressions in Python source over registers.

NumPy's operators round and wrap like the hardware's once both operands have the right type, so most
of the work is the cast. Which type is right, Numba's signature does not always say: its integer
operators cast to the type of the *result*, so that an int64 and a uint64 add up to an int64.
"""

import operator
from typing import Any

import ml_dtypes
import numpy as np
from numba.cuda import types

from llm_numba.simulator.bits import population
from llm_numba.simulator.powers import power
from llm_numba.simulator.rounding import from_integer, fused_multiply_add, round_to
from llm_numba.simulator.values import float_to_int, register_dtype, saturate_to_int, wrap

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
_COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}
_POWERS = (operator.pow, operator.ipow)

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Names that the generated source may use.
NAMESPACE: dict[str, Any] = {
    "np": np,
    "b1": np.dtype(bool),
    "i8": np.dtype(np.int64),
    "u8": np.dtype(np.uint64),
    "f2": np.dtype(np.float16),
    "bf2": _BFLOAT16,
    "f4": np.dtype(np.float32),
    "f8": np.dtype(np.float64),
    "c8": np.dtype(np.complex64),
    "c16": np.dtype(np.complex128),
    "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "e8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
_NAMES = {value: name for name, value in NAMESPACE.items() if isinstance(value, np.dtype)}


def dtype_name(dtype: np.dtype) -> str:
    """Return the name under which generated source finds the dtype of a register."""
    return _NAMES[dtype]


# -- Casts ---------------------------------------------------------------------------------------


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
    if from_dtype == to_dtype:
        return source
    if from_dtype.kind == "c" and to_dtype.kind != "c":
        return f"{source}.real.astype({dtype_name(to_dtype)})"
    if to_dtype == _BFLOAT16 and from_dtype.kind in "iu":
        return f"from_integer({source}, bf2)"
    if to_dtype == _BFLOAT16 and from_dtype == np.float64:
        return f"round_to({source}, bf2)"
    return f"{source}.astype({dtype_name(to_dtype)})"


def _cast_to_integer(
    source: str, have: Any, want: Any, from_dtype: np.dtype, to_dtype: np.dtype
) -> str:
    if from_dtype.kind == "b":
        return f"{source}.astype({dtype_name(to_dtype)})"
    if from_dtype.kind not in "iu":
        if from_dtype.itemsize > 2:
            return f"float_to_int({source}, {want.bitwidth}, {want.signed})"
        # The cast of a float16 rounds to the nearest integer: numba-cuda writes `cvt.rni`.
        value = f"np.rint({source})" if from_dtype == np.float16 else source
        return f"saturate_to_int({value}, {want.bitwidth}, {want.signed})"
    if want.bitwidth == 64:
        same = from_dtype == to_dtype
        return source if same else f"{source}.astype({dtype_name(to_dtype)})"
    holds_all = isinstance(have, types.Integer) and (
        want.minval <= have.minval and have.maxval <= want.maxval
    )
    return source if holds_all else f"wrap({source}, {want.bitwidth}, {want.signed})"


def converted(value: Any, have: Any, want: Any) -> Any:
    """Convert a register from one Numba type to another."""
    return eval(cast("value", have, want), NAMESPACE, {"value": value})


# -- Operators -----------------------------------------------------------------------------------


def can_operate(function: Any, signature: Any) -> bool:
    """Tell whether an operator of these types can be simulated."""
    kinds = [types.unliteral(each) for each in signature.args]
    if any(isinstance(kind, types.BaseTuple) for kind in kinds):
        on_tuples = function is operator.add or SYMBOLS.get(function) in _COMPARISONS
        return function is operator.contains or on_tuples
    known = function in SYMBOLS or function in _POWERS
    return known and all(register_dtype(kind) is not None for kind in kinds)


def operand_types(function: Any, signature: Any) -> tuple[Any, ...]:
    """Return the types that an operator's operands are cast to first."""
    kind = types.unliteral(signature.return_type)
    kinds = tuple(types.unliteral(each) for each in signature.args)
    if len(kinds) == 1 or SYMBOLS.get(function) in _COMPARISONS or function is operator.contains:
        return kinds
    if function in _POWERS:
        return (kind, *kinds[1:])
    return (kind, kind) if isinstance(kind, types.Integer) else kinds


def operation(function: Any, parts: list[str], signature: Any) -> str:
    """Return an expression for an operator.

    Parameters
    ----------
    function : operator
        A key of :data:`SYMBOLS`, a power, or ``in``.
    parts : list of str
        Its operands, of the types that :func:`operand_types` asks for.
    signature : numba signature
    """
    kind = types.unliteral(signature.return_type)
    first = types.unliteral(signature.args[0])
    if isinstance(first, types.BaseTuple):
        return _tuple_operation(function, parts)
    if function in _POWERS:
        return f"conform(power({', '.join(parts)}), {dtype_name(register_dtype(kind))})"
    symbol = SYMBOLS[function]
    if len(parts) == 1:
        return _sign(f"({symbol}{parts[0]})", first, kind)
    if isinstance(kind, types.Integer) and kind.signed and symbol == "//":
        return f"floor_divide({', '.join(parts)})"
    if isinstance(kind, types.Complex) and symbol == "/":
        return f"complex_divide({', '.join(parts)})"
    source = f"({parts[0]} {symbol} {parts[1]})"
    if isinstance(kind, types.Integer) and kind.bitwidth < 64:
        return f"wrap({source}, {kind.bitwidth}, {kind.signed})"
    return source


def _sign(source: str, operand: Any, kind: Any) -> str:
    """Let a sign wrap in the operand's own width, before it widens to the result's."""
    if isinstance(operand, types.Integer) and operand.bitwidth < 64:
        source = f"wrap({source}, {operand.bitwidth}, {operand.signed})"
    return cast(source, operand, kind)


def _tuple_operation(function: Any, parts: list[str]) -> str:
    if function is operator.contains:
        return f"contains({', '.join(parts)})"
    if function is operator.add:
        return f"({parts[0]} + {parts[1]})"
    return f"compare_tuples({SYMBOLS[function]!r}, {', '.join(parts)})"


def floor_divide(left: Any, right: Any) -> Any:
    """Divide int64 and round down; what has no quotient gives 0, the lowest by -1 as well."""
    quotient = left // right
    overflow = np.asarray(right == -1)
    if not overflow.any():
        return quotient
    return np.where(overflow & (left == np.iinfo(np.int64).min), np.int64(0), quotient)[()]


def complex_divide(left: Any, right: Any) -> Any:
    """Divide complex numbers, scaled by the larger part of the divisor.

    Source: Smith, "Algorithm 116: Complex division" (CACM 1962), in the form that Numba compiles.
    """
    a, b, c, d = left.real, left.imag, right.real, right.imag
    flat = np.abs(c) >= np.abs(d)
    ratio = np.where(flat, d / c, c / d)
    denominator = np.where(flat, c + d * ratio, c * ratio + d)
    real = np.where(flat, a + b * ratio, a * ratio + b) / denominator
    imag = np.where(flat, b - a * ratio, b * ratio - a) / denominator
    result = np.empty(np.shape(real), np.result_type(left, right))
    result.real, result.imag = real, imag
    return result[()]


def contains(items: tuple[Any, ...], value: Any) -> Any:
    """Tell whether a tuple has an item equal to a value."""
    found = np.False_
    for item in items:
        found = found | (item == value)
    return found


def compare_tuples(symbol: str, left: tuple[Any, ...], right: tuple[Any, ...]) -> Any:
    """Compare tuples item by item, the first difference decides."""
    if symbol in ("==", "!="):
        same = np.bool_(len(left) == len(right))
        for one, other in zip(left, right, strict=False):
            same = same & (one == other)
        return same if symbol == "==" else ~same
    decided, verdict = np.False_, np.False_
    less = symbol[0] == "<"
    for one, other in zip(left, right, strict=False):
        verdict = np.where(decided, verdict, one < other if less else one > other)
        decided = decided | (one != other)
    by_length = len(left) < len(right) if less else len(left) > len(right)
    tie = by_length or (len(left) == len(right) and "=" in symbol)
    return np.where(decided, verdict, tie)[()]


def conform(value: Any, dtype: np.dtype) -> Any:
    """Give what a twin returns the type that Numba's signature says."""
    have = getattr(value, "dtype", None)
    if have == dtype:
        return value
    if have is None:
        return dtype.type(value)
    if dtype == _BFLOAT16 and have == np.float64:
        return round_to(value, dtype)
    return value.astype(dtype)


NAMESPACE |= {
    "compare_tuples": compare_tuples,
    "complex_divide": complex_divide,
    "conform": conform,
    "contains": contains,
    "float_to_int": float_to_int,
    "floor_divide": floor_divide,
    "fma": fused_multiply_add,
    "from_integer": from_integer,
    "population": population,
    "power": power,
    "round_to": round_to,
    "saturate_to_int": saturate_to_int,
    "wrap": wrap,
}
