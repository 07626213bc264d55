"""Take a student's kernels out of their file without running the file.

The device gets the constants and the functions decorated with ``@cuda.jit`` that stand at top
level, and nothing else. Constants are worked out here, by arithmetic alone. So no line of a
student's Python runs where costs are counted: Numba types the kernels, and the simulator executes
what Numba made of them.
"""

import ast
import math
import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.LShift: operator.lshift, ast.RShift: operator.rshift, ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_, ast.BitXor: operator.xor, ast.USub: operator.neg,
    ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_NUMBERS = ("bool", "float16", "float32", "float64", *_INTEGERS)
_MATH = ("pi", "e", "inf", "nan")
_MATH_CALLS = ("sqrt", "log", "log2", "exp", "ceil", "floor")
_OPTIONS = ("device", "inline", "fastmath")
MODULES = {"numba", "numba.cuda", "math", "numpy"}
_LARGEST = 1 << 62


class NotConstantError(Exception):
    """A top-level value that no kernel may use: it is no plain arithmetic."""


@dataclass
class Kernels:
    """What a device makes of a file.

    Attributes
    ----------
    constants : dict of str to number or tuple
    others : dict of str to int
        Top-level names that are no constants, and their lines.
    source : ast.Module
        Imports of what kernels may use, and the kernels; with the line numbers of the file.
    functions : dict of str to ast.FunctionDef
        Kernels and device functions.
    devices : set of str
        Those that only kernels can call.
    """

    constants: dict[str, Any] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    source: ast.Module = field(default_factory=lambda: ast.Module([], []))
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)

    def launchable(self) -> dict[str, list[str]]:
        """Return the parameters of what can be launched: no device functions."""
        return {
            name: [each.arg for each in node.args.args]
            for name, node in self.functions.items()
            if name not in self.devices
        }

    def shared(self) -> list[ast.stmt]:
        """Return what every kernel may use: imports and device functions."""
        own = [node for name, node in self.functions.items() if name not in self.devices]
        return [node for node in self.source.body if node not in own]


def take_out(tree: ast.Module) -> Kernels:
    """Take constants, kernels and device functions out of a file."""
    found = Kernels()
    modules: dict[str, str] = {}
    for node in tree.body:
        match node:
            case ast.Import(names=names):
                kept = [name for name in names if name.name in MODULES]
                modules |= {name.asname or name.name: name.name for name in kept}
                if kept:
                    found.source.body.append(ast.copy_location(ast.Import(kept), node))
            case ast.ImportFrom(module=module) if module in MODULES:
                modules |= {name.asname or name.name: name.name for name in node.names}
                found.source.body.append(node)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    found.constants[name] = _evaluate(value, found.constants, modules)
                except NotConstantError:
                    found.constants.pop(name, None)
                    found.others[name] = node.lineno
            case ast.FunctionDef(name=name) if (options := _options(node)) is not None:
                found.functions[name] = _bare(node)
                found.source.body.append(found.functions[name])
                if options.get("device"):
                    found.devices.add(name)
    return found


def _bare(node: ast.FunctionDef) -> ast.FunctionDef:
    """Return a function without what Python would run where it is defined."""
    arguments = [ast.copy_location(ast.arg(each.arg), each) for each in node.args.args]
    bare = ast.FunctionDef(
        name=node.name,
        args=ast.arguments([], arguments, None, [], [], None, []),
        body=node.body,
        decorator_list=node.decorator_list,
        type_params=[],
    )
    return ast.copy_location(bare, node)


def _options(node: ast.FunctionDef) -> dict[str, Any] | None:
    """Return the options of ``@cuda.jit``, or None for any other function."""
    if len(node.decorator_list) != 1:
        return None
    match node.decorator_list[0]:
        case ast.Attribute(value=ast.Name(id="cuda"), attr="jit"):
            return {}
        case ast.Call(func=ast.Attribute(value=ast.Name(id="cuda"), attr="jit"), args=[]) as call:
            words = call.keywords
            plain = all(
                each.arg in _OPTIONS and isinstance(each.value, ast.Constant) for each in words
            )
            return {each.arg: each.value.value for each in words} if plain else None
    return None


def _evaluate(node: ast.expr, known: dict[str, Any], modules: dict[str, str]) -> Any:
    def one(inner: ast.expr) -> Any:
        return _evaluate(inner, known, modules)

    try:
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return value
            case ast.Name(id=name) if name in known:
                return known[name]
            case ast.Tuple(elts=elements):
                return tuple(one(each) for each in elements)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return _small(_OPERATORS[type(op)](one(operand)))
            case ast.BinOp(left=left, op=op, right=right):
                return _combine(op, one(left), one(right))
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                if modules.get(module) in ("math", "numpy") and name in _MATH:
                    return getattr(math, name)
            case ast.Call(func=ast.Name(id=name), args=[value], keywords=[]):
                if modules.get(name) in _NUMBERS:
                    return np.dtype(modules[name]).type(one(value))
                if name in ("int", "float"):
                    return {"int": int, "float": float}[name](one(value))
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=module), attr=name), args=[value], keywords=[]
            ):
                if modules.get(module) == "math" and name in _MATH_CALLS:
                    return getattr(math, name)(one(value))
                if modules.get(module) == "numpy" and name in _NUMBERS:
                    return np.dtype(name).type(one(value))
    except (ArithmeticError, TypeError, ValueError) as failure:
        raise NotConstantError from failure
    raise NotConstantError


def _combine(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(left, tuple) or isinstance(right, tuple):
        raise NotConstantError
    if isinstance(op, ast.Pow):
        # In floating point first: 9**9**9 would take for ever.
        _small(float(left) ** float(right))
        return _small(left**right)
    if type(op) not in _OPERATORS or (isinstance(op, ast.LShift) and right > 62):
        raise NotConstantError
    return _small(_OPERATORS[type(op)](left, right))


def _small(value: Any) -> Any:
    """Return a number that is not absurdly large."""
    if abs(value) > _LARGEST and not math.isinf(value):
        raise NotConstantError
    return value
