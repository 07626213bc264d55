"""Statements of Numba's typed IR, and how a function is laid out in blocks.

Each statement becomes a line of Python over registers, or the end of a block.
"""

from typing import Any

from numba.cuda import types
from numba.cuda.core import ir

from llm_numba.simulator.expressions import static_index, translate_expression
from llm_numba.simulator.frontend import TypedFunction
from llm_numba.simulator.program import Block
from llm_numba.simulator.scope import Scope
from llm_numba.simulator.translation import Constant, Known, Translation
from llm_numba.simulator.values import register_dtype


def translate(
    translation: Translation,
    typed: TypedFunction,
    arguments: list[int | Constant | Known],
    start: Block,
    exit_block: Block | None = None,
    result: int | None = None,
    depth: int = 0,
) -> None:
    """Lay a function out in blocks, from the end of ``start`` on.

    Parameters
    ----------
    translation : Translation
    typed : TypedFunction
    arguments, start, exit_block, result, depth
        As for :class:`~llm_numba.simulator.scope.Scope`.
    """
    translation.float64 |= typed.float64
    scope = Scope(translation, typed, arguments, start, exit_block, result, depth)
    labels = sorted(typed.ir.blocks)
    scope.starts = {label: translation.block() for label in labels}
    start.jump(scope.starts[labels[0]])
    for label in labels:
        scope.block, scope.body = scope.starts[label], typed.ir.blocks[label].body
        for statement in scope.body:
            _translate_statement(scope, statement)


def _translate_statement(scope: Scope, statement: Any) -> None:
    scope.line = statement.loc.line
    scope.reads = set()
    if scope.translation.fine and scope.block.lines and _touches_memory(scope, statement):
        scope.cut()
    translator = _STATEMENTS.get(type(statement))
    if translator is None:
        raise scope.unsupported(
            f"the statement `{statement}` cannot be simulated.", "Write it in another way."
        )
    translator(scope, statement)


def _touches_memory(scope: Scope, statement: Any) -> bool:
    if isinstance(statement, ir.SetItem | ir.StaticSetItem | ir.SetAttr):
        return statement.target.name not in scope.private
    value = getattr(statement, "value", None)
    if not isinstance(value, ir.Expr):
        return False
    if value.op in ("getitem", "static_getitem", "typed_getitem"):
        private = value.value.name in scope.private
        return not private and not isinstance(scope.type(value.value), types.BaseTuple)
    return value.op == "call" and any(
        isinstance(scope.type(each), types.Array) for each in value.args
    )


def _del(scope: Scope, statement: ir.Del) -> None:
    pass


def _jump(scope: Scope, statement: ir.Jump) -> None:
    scope.block.jump(scope.starts[statement.target])


def _branch(scope: Scope, statement: ir.Branch) -> None:
    condition = scope.use(statement.cond, types.boolean)
    targets = [scope.starts[statement.truebr], scope.starts[statement.falsebr]]
    if statement.cond.name in scope.constants:
        taken = targets[0] if scope.constants[statement.cond.name].value else targets[1]
        scope.block.jump(taken)
        return
    scope.emit_location()
    scope.block.successors = targets
    scope.block.condition = scope.registers[statement.cond.name]
    scope.block.end = f"return g.machine.branch(g, {condition}, {{0}}, {{1}})"


def _return(scope: Scope, statement: ir.Return) -> None:
    if scope.exit_block is None:
        scope.block.successors = []
        scope.block.end = "return g.machine.exit(g)"
        return
    if scope.result is not None:
        source = scope.use(statement.value, scope.typed.return_type)
        scope.emit(f"{scope.define(scope.result)} = {source}")
    scope.block.jump(scope.exit_block)


def _staticraise(scope: Scope, statement: ir.StaticRaise) -> None:
    error = getattr(statement.exc_class, "__name__", "an exception")
    _raise(scope, error, ", ".join(map(str, statement.exc_args or ())))


def _dynamicraise(scope: Scope, statement: ir.DynamicRaise) -> None:
    _raise(scope, getattr(statement.exc_class, "__name__", "an exception"), "")


def _raise(scope: Scope, error: str, text: str) -> None:
    scope.emit_location()
    scope.block.successors = []
    message = scope.translation.name(f"{error}: {text}" if text else error)
    scope.block.end = f"return g.machine.raised(g, {message})"


def _print(scope: Scope, statement: ir.Print) -> None:
    parts = "".join(f"{scope.use(each)}, " for each in statement.args)
    scope.emit(f"g.machine.print(g, ({parts}))")


def _setitem(scope: Scope, statement: ir.SetItem) -> None:
    _store(scope, statement, statement.target, scope.use(statement.index), statement.value)


def _staticsetitem(scope: Scope, statement: ir.StaticSetItem) -> None:
    _store(scope, statement, statement.target, static_index(scope, statement), statement.value)


def _store(scope: Scope, statement: Any, target: ir.Var, index: str, value: ir.Var) -> None:
    scope.emit_location()
    array = scope.type(target)
    if isinstance(array, types.Record):
        want = array.typeof(statement.index)
        scope.emit(f"g.store({scope.use(target)}.field({index}), (), {scope.use(value, want)})")
        return
    want = scope.type(value)
    if register_dtype(array.dtype) is not None and register_dtype(want) is not None:
        want = array.dtype
    part, source = f"{scope.use(target)}.part(g, {index})", scope.use(value, want)
    if not _is_element(array, scope.typed.calltypes[statement].args[1]):
        scope.emit(f"assign_part(g, {part}, {source})")
    elif isinstance(array.dtype, types.Record):
        scope.emit(f"copy_record(g, {part}, {source})")
    else:
        scope.emit(f"g.store({scope.use(target)}, {index}, {source})")


def _is_element(array: Any, index: Any) -> bool:
    """Tell whether an index leaves no axis of an array."""
    places = list(index) if isinstance(index, types.BaseTuple) else [index]
    whole = all(isinstance(types.unliteral(place), types.Integer) for place in places)
    return whole and len(places) == array.ndim


def _setattr(scope: Scope, statement: ir.SetAttr) -> None:
    record = scope.type(statement.target)
    scope.emit_location()
    value = scope.use(statement.value, record.typeof(statement.attr))
    scope.emit(f"g.store({scope.use(statement.target)}.field({statement.attr!r}), (), {value})")


def _assign(scope: Scope, statement: ir.Assign) -> None:
    target, value = statement.target, statement.value
    kind = scope.type(target)
    if isinstance(value, ir.Global | ir.FreeVar | ir.Const):
        scope.bind_object(target, value.value)
    elif isinstance(value, ir.Arg):
        scope.take_argument(target, scope.arguments[value.index])
    elif isinstance(value, ir.Var):
        scope.copy(target, value, kind)
    else:
        translate_expression(scope, target, value)


_STATEMENTS = {
    ir.Assign: _assign,
    ir.SetItem: _setitem,
    ir.StaticSetItem: _staticsetitem,
    ir.SetAttr: _setattr,
    ir.Print: _print,
    ir.Del: _del,
    ir.Jump: _jump,
    ir.Branch: _branch,
    ir.Return: _return,
    ir.StaticRaise: _staticraise,
    ir.DynamicRaise: _dynamicraise,
}
