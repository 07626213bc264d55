"""Expressions of Numba's typed IR, as Python source over registers."""

import operator
from typing import Any

from numba.cuda import types
from numba.cuda.core import ir

from llm_numba.simulator.calls import translate_call
from llm_numba.simulator.members import translate_member
from llm_numba.simulator.operators import translate_operator
from llm_numba.simulator.scope import Scope
from llm_numba.simulator.translation import as_index


def translate_expression(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    """Translate ``target = value``."""
    translator = _EXPRESSIONS.get(value.op)
    if translator is None:
        raise scope.unsupported(
            f"the operation `{value.op}` cannot be simulated.", "Write it in another way."
        )
    translator(scope, target, value)


def static_index(scope: Scope, statement: Any) -> str:
    """Return an expression for an index that Numba found to be constant."""
    if statement.index_var is not None:
        return scope.use(statement.index_var)
    return scope.translation.name(as_index(statement.index))


def _binop(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    translate_operator(scope, target, value, value.fn, [value.lhs, value.rhs])


def _inplace_binop(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    translate_operator(scope, target, value, value.immutable_fn, [value.lhs, value.rhs])


def _unary(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    if value.fn is operator.not_:
        scope.assign(target, f"np.logical_not({scope.use(value.value, types.boolean)})")
        return
    translate_operator(scope, target, value, value.fn, [value.value])


def _cast(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    scope.copy(target, value.value, scope.type(target))


def _build_tuple(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    kinds = scope.type(target)
    parts = [scope.use(each, kind) for each, kind in zip(value.items, kinds, strict=True)]
    scope.assign(target, f"({', '.join(parts)},)" if parts else "()")


def _exhaust_iter(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    scope.assign(target, scope.use(value.value))


def _getiter(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    kind = types.unliteral(scope.type(value.value))
    if isinstance(kind, types.RangeType | types.IteratorType | types.BaseTuple | types.Array):
        scope.assign(target, f"iterate({scope.use(value.value)})")
    else:
        raise scope.unsupported(f"a loop over {kind} cannot be simulated.", "Loop over a range.")


def _iternext(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    iterator = scope.use(value.value)
    scope.emit_location()
    scope.assign(target, f"peek(g, {iterator})")
    register = scope.register_of(value.value.name)
    scope.emit(f"{scope.define(register)} = advance({iterator})")


def _pair_first(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    scope.assign(target, f"{scope.use(value.value)}[0]")


def _pair_second(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    scope.assign(target, f"{scope.use(value.value)}[1]")


def _getitem(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    _load(scope, target, value.value, scope.use(value.index))


def _typed_getitem(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    _load(scope, target, value.value, scope.use(value.index))


def _static_getitem(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    kind = types.unliteral(scope.type(value.value))
    if isinstance(kind, types.BaseTuple):
        scope.assign(target, f"{scope.use(value.value)}[{value.index!r}]")
    elif isinstance(value.index, str):
        _load_field(scope, target, value.value, value.index)
    else:
        _load(scope, target, value.value, static_index(scope, value))


def _load(scope: Scope, target: ir.Var, container: ir.Var, index: str) -> None:
    kind = types.unliteral(scope.type(container))
    if isinstance(kind, types.BaseTuple):
        scope.assign(target, f"pick({scope.use(container)}, {index})")
        return
    scope.emit_location()
    source = scope.use(container)
    if isinstance(scope.type(target), types.Array | types.Record):
        scope.assign(target, f"{source}.part(g, {index})")
    else:
        scope.assign(target, f"g.load({source}, {index})", loads=True)


def _load_field(scope: Scope, target: ir.Var, record: ir.Var, name: str) -> None:
    scope.emit_location()
    source = f"{scope.use(record)}.field({name!r})"
    if isinstance(scope.type(target), types.Array | types.Record):
        scope.assign(target, source)
    else:
        scope.assign(target, f"g.load({source}, ())", loads=True)


def _getattr(scope: Scope, target: ir.Var, value: ir.Expr) -> None:
    if isinstance(scope.type(value.value), types.Record):
        _load_field(scope, target, value.value, value.attr)
    else:
        translate_member(scope, target, value)


_EXPRESSIONS = {
    "binop": _binop,
    "inplace_binop": _inplace_binop,
    "unary": _unary,
    "cast": _cast,
    "build_tuple": _build_tuple,
    "exhaust_iter": _exhaust_iter,
    "getiter": _getiter,
    "iternext": _iternext,
    "pair_first": _pair_first,
    "pair_second": _pair_second,
    "getitem": _getitem,
    "typed_getitem": _typed_getitem,
    "static_getitem": _static_getitem,
    "getattr": _getattr,
    "call": translate_call,
}
