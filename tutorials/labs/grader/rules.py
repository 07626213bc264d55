"""What a student's file may hold: read from its syntax, before anything runs.

The rules are there so that points are earned by the student's own code. They are not a security
boundary: the page for instructors says what keeps up the rest.
"""

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

IMPORTS = ("math", "numba", "numba.cuda", "numpy", "llm_numba.runtime")
# Of our own package, what a launcher needs and no more.
RUNTIME_NAMES = ("launch", "empty", "zeros")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
NUMBA_NAMES = ("cuda", "boolean", "float16", "float32", "float64", *_INTEGERS)
BUILTINS = (
    "abs all any bool bytes dict divmod enumerate filter float frozenset hash int isinstance iter "
    "len list map max min next object pow print property range repr reversed round set slice "
    "sorted staticmethod classmethod str sum super tuple zip complex "
    "ArithmeticError AssertionError AttributeError Exception IndexError KeyError LookupError "
    "MemoryError NotImplementedError OverflowError RuntimeError StopIteration TypeError ValueError "
    "ZeroDivisionError NotImplemented Ellipsis"
).split()
# Ways out of a program into the interpreter that runs it, and into files.
_FORBIDDEN_ATTRIBUTES = frozenset(
    "ag_await ag_code ag_frame cr_await cr_code cr_frame cr_origin f_back f_builtins f_code "
    "f_globals f_locals f_trace format_map func_globals func_code gi_code gi_frame gi_yieldfrom "
    "tb_frame tb_next mro with_traceback py_func overloads targetoptions "
    "ctypes dump dumps tofile sys os builtins".split()
)  # fmt: skip
_FORBIDDEN_NAMES = frozenset(
    "BaseException breakpoint compile delattr dir eval exec exit getattr globals help hasattr "
    "id input locals memoryview open quit setattr type vars".split()
)
_NOT_WRITTEN = re.compile(r"lab \d+, step (\d+)")


@dataclass(frozen=True)
class Breach:
    """A line of a student's file that the rules do not allow.

    Attributes
    ----------
    line : int
    message : str
    """

    line: int
    message: str


def breaches(tree: ast.Module, extra_imports: Collection[str] = ()) -> list[Breach]:
    """Return what the rules do not allow in a file, by line.

    Parameters
    ----------
    tree : ast.Module
    extra_imports : collection of str
        Modules that the lab allows beside the usual ones.
    """
    imports = (*IMPORTS, *extra_imports)
    found = {
        Breach(getattr(node, "lineno", 1), message)
        for node in ast.walk(tree)
        for message in _of_node(node, imports)
    }
    bound = _bound_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _FORBIDDEN_NAMES - bound:
            found.add(Breach(node.lineno, f"`{node.id}` is not needed here, and not allowed."))
    return sorted(found, key=lambda breach: (breach.line, breach.message))


def unwritten_steps(tree: ast.Module) -> dict[int, int]:
    """Return the steps that still raise ``NotImplementedError("lab N, step S")``: step -> line."""
    steps: dict[int, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            words = [each.value for each in node.exc.args if isinstance(each, ast.Constant)]
            found = _NOT_WRITTEN.search(" ".join(map(str, words)))
            if found and ast.unparse(node.exc.func) == "NotImplementedError":
                steps.setdefault(int(found[1]), node.lineno)
    return steps


def _bound_names(tree: ast.Module) -> set[str]:
    """Return the names that a file gives to something of its own: `input` may be a parameter."""
    names = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return names | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def _of_node(node: ast.AST, imports: tuple[str, ...]) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            for name in names:
                yield from _of_import(name.name, imports)
        case ast.ImportFrom(module=module, names=names, level=level):
            yield from _of_import("." * level + (module or ""), imports)
            allowed = {"llm_numba.runtime": RUNTIME_NAMES, "numba": NUMBA_NAMES}.get(module or "")
            for name in names:
                if name.name == "*":
                    yield "`import *` hides where names come from: import them one by one."
                elif allowed and name.name not in allowed:
                    yield f"Of `{module}` this lab may import: {', '.join(allowed)}."
                else:
                    yield from _of_attribute(name.name)
        case ast.Attribute(value=value, attr=attr):
            mine = isinstance(value, ast.Name) and value.id in ("self", "cls")
            if not (mine and not attr.startswith("__")) and not _is_super_init(node):
                yield from _of_attribute(attr)
        case ast.Name(id=name) if name.startswith("__") and name != "__name__":
            yield f"`{name}` reaches into the interpreter, which is not allowed."
        case ast.ExceptHandler(type=None):
            yield "`except:` catches everything: name the exception."
        case ast.Global() | ast.Nonlocal():
            yield "`global` and `nonlocal` are not allowed: pass values, or keep them in `self`."


def _of_import(name: str, imports: tuple[str, ...]) -> Iterator[str]:
    if name not in imports:
        yield (
            f"`{name}` may not be imported: what it has is what this lab asks you to write, or "
            f"not needed for it. Allowed: {', '.join(imports)}."
        )


def _of_attribute(name: str) -> Iterator[str]:
    if name.startswith("_"):
        yield f"`{name}`: names that begin with `_` belong to others; they may be used on `self`."
    elif name in _FORBIDDEN_ATTRIBUTES:
        yield f"`.{name}` leads out of your program, which is not allowed."


def _is_super_init(node: ast.Attribute) -> bool:
    return node.attr == "__init__" and ast.unparse(node.value) == "super()"
