"""The arguments of a call, brought into the order of its signature."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numba.cuda import types
from numba.cuda.core import ir

from llm_numba.simulator.arithmetic import cast

if TYPE_CHECKING:
    from llm_numba.simulator.scope import Scope


def positional(scope: "Scope", value: ir.Expr, signature: Any) -> list[Any]:
    """Bring a call's arguments into the places of the signature.

    A tuple behind a star is taken apart, and what a parameter with a star gathers is put together.
    An omitted argument is its default.
    """
    given: list[Any] = list(value.args)
    if value.vararg is not None:
        kinds = types.unliteral(scope.type(value.vararg))
        source = scope.use(value.vararg)
        given += [Expression(f"{source}[{axis}]", kind) for axis, kind in enumerate(kinds)]
    keywords = dict(value.kws)
    if signature.pysig is None:
        return given + list(keywords.values())
    arguments = []
    for place, (name, parameter) in enumerate(signature.pysig.parameters.items()):
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = given[place:]
            parts = "".join(f"{source_of(scope, each, None)}, " for each in rest)
            return [*arguments, Expression(f"({parts})", signature.args[place])]
        if place < len(given):
            arguments.append(given[place])
        elif name in keywords:
            arguments.append(keywords[name])
        elif place < len(signature.args):
            arguments.append(_Default(parameter.default))
    return arguments


@dataclass(frozen=True)
class _Default:
    """An argument that the call leaves out."""

    value: Any


@dataclass(frozen=True)
class Expression:
    """An argument that is no variable, but made of one or of several."""

    source: str
    kind: Any


def source_of(scope: "Scope", argument: Any, want: Any) -> str:
    """Return an expression for an argument, converted to a type if one is given."""
    if isinstance(argument, Expression):
        return argument.source if want is None else cast(argument.source, argument.kind, want)
    return scope.operand(argument, want)


def sources(scope: "Scope", arguments: list[Any], kinds: Any) -> list[str]:
    """Return expressions for arguments, each of its type."""
    return [source_of(scope, each, kind) for each, kind in zip(arguments, kinds, strict=False)]


def pass_on(scope: "Scope", argument: Any, kind: Any) -> Any:
    """Hand an argument to the function that is laid in."""
    if not isinstance(argument, Expression):
        return scope.pass_on(argument, kind)
    register = scope.translation.register()
    source = source_of(scope, argument, kind)
    scope.emit(f"{scope.define(register)} = {source}")
    return register
