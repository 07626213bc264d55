"""Operators on numbers; a product that feeds a sum becomes one fused multiply-add."""

import operator
from typing import Any

from numba.cuda import types
from numba.cuda.core import ir

from llm_numba.simulator.arithmetic import can_operate, operand_types, operation
from llm_numba.simulator.scope import Scope

_CONTRACTED = {operator.add, operator.sub, operator.iadd, operator.isub}
_PRODUCTS = {operator.mul, operator.imul}
# ptxas contracts the short formats as well.
_FUSED = (types.float32, types.float64, types.float16, types.bfloat16)


def translate_operator(
    scope: Scope, target: ir.Var, value: ir.Expr, function: Any, operands: list[Any]
) -> None:
    """Translate ``target = function(*operands)``."""
    if function in (operator.is_, operator.is_not):
        _identity(scope, target, function, operands)
        return
    signature = scope.typed.calltypes[value]
    if not can_operate(function, signature):
        raise scope.unsupported(
            f"`{getattr(function, '__name__', function)}` of {signature.args} cannot be simulated.",
            "Use numbers here.",
        )
    if function in _CONTRACTED and _contract(scope, target, function, operands, signature):
        return
    if function in _PRODUCTS and _feeds_a_sum(scope, target, signature.return_type):
        # The sum will read the factors in place of the product.
        scope.products[target.name] = (operands, signature)
        return
    wanted = operand_types(function, signature)
    parts = [scope.use(each, want) for each, want in zip(operands, wanted, strict=True)]
    scope.assign(target, operation(function, parts, signature))


def _feeds_a_sum(scope: Scope, target: ir.Var, kind: Any) -> bool:
    """Tell whether a product is used once, by a sum behind it in the same block."""
    if not scope.translation.contract or kind not in _FUSED:
        return False
    users = scope.users.get(target.name, [])
    if len(users) != 1 or target.name not in scope.assigned_once:
        return False
    expression = getattr(users[0], "value", None)
    if not isinstance(expression, ir.Expr) or expression.op not in ("binop", "inplace_binop"):
        return False
    signature = scope.typed.calltypes[expression]
    inplace = expression.op == "inplace_binop"
    function = expression.immutable_fn if inplace else expression.fn
    same_block = any(users[0] is each for each in scope.body)
    return (
        same_block
        and function in _CONTRACTED
        and all(types.unliteral(each) == kind for each in signature.args)
    )


def _contract(
    scope: Scope, target: ir.Var, function: Any, operands: list[Any], signature: Any
) -> bool:
    left, right = operands
    minus = function in (operator.sub, operator.isub)
    kind = signature.return_type
    if left.name in scope.products:
        a, b = scope.factors(left.name)
        c = scope.use(right, kind)
        scope.assign(target, f"fma({a}, {b}, {'-' if minus else ''}{c})")
        return True
    if right.name in scope.products:
        a, b = scope.factors(right.name)
        c = scope.use(left, kind)
        scope.assign(target, f"fma({'-' if minus else ''}{a}, {b}, {c})")
        return True
    return False


def _identity(scope: Scope, target: ir.Var, function: Any, operands: list[Any]) -> None:
    kinds = [types.unliteral(scope.type(each)) for each in operands]
    if all(isinstance(kind, types.EnumMember) for kind in kinds):
        symbol = "==" if function is operator.is_ else "!="
        scope.assign(target, f"({scope.use(operands[0])} {symbol} {scope.use(operands[1])})")
        return
    same = all(isinstance(kind, types.NoneType) for kind in kinds)
    scope.set_constant(target, same if function is operator.is_ else not same)
