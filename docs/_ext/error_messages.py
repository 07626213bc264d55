"""Every message of our errors, read from the source: for the error index, and for tests of pages.

Messages are what an error is called with, f-strings with their gaps. Where a function builds the
error (``def fail(self, problem, remedy) -> ConfigError``), what that function is called with is
filled in. A message that is put together over several statements is not found.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llm_numba

PACKAGE = Path(llm_numba.__file__).parent
# A gap for which the source has no word.
UNNAMED = "{\N{HORIZONTAL ELLIPSIS}}"

Texts = dict[str, ast.expr]


@dataclass(frozen=True)
class Message:
    """What an error says.

    Attributes
    ----------
    error : str
        Its class.
    module : str
    cause, remedy : str
        Each gap as ``{name}``.
    """

    error: str
    module: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Maker:
    """A function that returns an error.

    Attributes
    ----------
    module : str
    parameters : list of str
    error : str
    parts : list of ast.expr
        What it calls the error with.
    local : dict of str to ast.expr
        What its names stand for.
    """

    module: str
    parameters: list[str]
    error: str
    parts: list[ast.expr]
    local: Texts


@cache
def modules() -> dict[str, ast.Module]:
    """Parse all modules of the package, by name."""
    return {
        ".".join(("llm_numba", *path.relative_to(PACKAGE).with_suffix("").parts)): ast.parse(
            path.read_text()
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@cache
def error_classes() -> dict[str, str]:
    """Return the names of all our error classes, each with that of its base."""
    found = {"LLMNumbaError": "Exception"}
    classes = [
        each for tree in modules().values() for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef) and each.bases
    ]  # fmt: skip
    while more := {
        each.name: _last(each.bases[0])
        for each in classes
        if each.name not in found and _last(each.bases[0]) in found
    }:
        found |= more
    return found


@cache
def messages() -> tuple[Message, ...]:
    """Read all messages, in the order of the modules."""
    makers: dict[str, list[Maker]] = defaultdict(list)
    for name, maker in _makers():
        makers[name].append(maker)
    found = (
        Message(error, module, *(text(part, known) for part in parts))
        for module, tree in modules().items()
        for error, parts, known in _raised(module, tree, makers)
    )
    return tuple(dict.fromkeys(each for each in found if _says_something(each.cause)))


def text(node: ast.expr, known: Texts) -> str:
    """Write an expression as a template.

    Parameters
    ----------
    node : ast.expr
    known : dict of str to ast.expr
        What names stand for.

    Returns
    -------
    str
        Literal text, with ``{name}`` for each gap.
    """
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=parts):
            return "".join(text(part, known) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text(left, known) + text(right, known)
        case ast.FormattedValue(format_spec=ast.expr()):
            return "{number}"
        case ast.FormattedValue(value=value):
            return text(value, known)
        case ast.Name(id=name) if isinstance(
            known.get(name), (ast.Constant, ast.JoinedStr, ast.BinOp)
        ):
            return text(known[name], {key: known[key] for key in known if key != name})
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return "{" + name.strip("_").replace("_", " ").lower() + "}"
        case ast.Call(func=ast.Name(id="len")):
            return "{number}"
        case _:
            return UNNAMED


def _raised(
    module: str, tree: ast.Module, makers: dict[str, list[Maker]]
) -> Iterator[tuple[str, list[ast.expr], Texts]]:
    """Give each call of an error, or of what makes one, with what its names stand for."""
    imported = {each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)}
    for function, call in _calls(tree):
        name = _last(call.func)
        if name not in error_classes() and name not in makers:
            continue
        local = _assigned(function) if function else {}
        if name in error_classes() and len(call.args) > 1 and not _is_maker(function):
            yield name, call.args[:2], local
        for maker in makers.get(name, ()):
            if maker.module in {module, *imported}:
                given = dict(zip(maker.parameters, call.args, strict=False))
                given |= {each.arg: each.value for each in call.keywords if each.arg}
                yield maker.error, maker.parts, local | maker.local | given


def _makers() -> Iterator[tuple[str, Maker]]:
    for module, tree in modules().items():
        for node in filter(_is_maker, ast.walk(tree)):
            parameters = [each.arg for each in node.args.args if each.arg != "self"]
            for _, call in _calls(node):
                if _last(call.func) in error_classes() and len(call.args) > 1:
                    error, parts = _last(call.func), call.args[:2]
                    yield node.name, Maker(module, parameters, error, parts, _assigned(node))


def _is_maker(node: ast.AST | None) -> bool:
    return isinstance(node, ast.FunctionDef) and _last(node.returns) in error_classes()


def _calls(
    tree: ast.AST, function: ast.FunctionDef | None = None
) -> Iterator[tuple[ast.FunctionDef | None, ast.Call]]:
    """Give each call with the function around it, in the order of the source."""
    waiting = [(tree, function)]
    while waiting:
        node, around = waiting.pop()
        if isinstance(node, ast.Call):
            yield around, node
        inner = node if isinstance(node, ast.FunctionDef) else around
        waiting += [(child, inner) for child in reversed(list(ast.iter_child_nodes(node)))]


def _assigned(function: ast.FunctionDef) -> Texts:
    """Return what the names of a function stand for, of those that are assigned once."""
    values: dict[str, list[ast.expr]] = defaultdict(list)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id].append(node.value)
    return {name: found[0] for name, found in values.items() if len(found) == 1}


def _last(node: ast.expr | None) -> str:
    """Return the name that stands last: "c" of ``a.b.c``."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _says_something(cause: str) -> bool:
    """Whether there is a word outside the gaps."""
    return any(part.rpartition("}")[2].strip(" .:") for part in cause.split("{"))


def by_class(names: Iterable[str]) -> dict[str, list[Message]]:
    """Sort messages by the class of theirs that is one of the names, or stands above it."""
    found: dict[str, list[Message]] = {name: [] for name in names}
    for message in messages():
        name = message.error
        while name not in found:
            name = error_classes()[name]
        found[name].append(message)
    return found
