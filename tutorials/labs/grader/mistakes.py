"""Planted mistakes: a solution, and what is wrong in place of what is right.

A file in a lab's ``wrong`` folder holds only the functions, methods and constants that differ from
``solution.py``. All else is the solution's, so the mistake is all that one reads.
"""

import ast
from collections.abc import Iterator
from pathlib import Path


def planted(path: Path) -> str:
    """Return the whole program of a planted mistake.

    Parameters
    ----------
    path : Path
        ``labNN_name/wrong/mistake.py``, beside ``labNN_name/solution.py``.

    Returns
    -------
    str
        The solution, in which each name that the mistake defines is as the mistake has it. A name
        that the solution has not goes before the one that follows it in the file, or to the end.
    """
    mistake, solution = path.read_text(), (path.parents[1] / "solution.py").read_text()
    lines, homes = solution.splitlines(), dict(named(solution))
    edits: list[tuple[int, int, list[str]]] = []
    waiting: list[str] = []
    for name, (begin, end) in named(mistake):
        text = mistake.splitlines()[begin:end]
        if name not in homes:
            waiting += [*text, "", ""]
            continue
        edits.append((*homes[name], [*waiting, *text]))
        waiting = []
    edits.append((len(lines), len(lines), ["", "", *waiting] if waiting else []))
    for begin, end, text in sorted(edits, reverse=True):
        lines[begin:end] = text
    return "\n".join(lines).rstrip("\n") + "\n"


def named(source: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Give the names that a file defines, methods by class and name, each with its lines.

    Parameters
    ----------
    source : str

    Yields
    ------
    name : str
    lines : (int, int)
        From the first, counted from 0, to the one behind the last.
    """
    yield from _named(ast.parse(source).body, "")


def _named(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for node in body:
        match node:
            case ast.ClassDef():
                yield from _named(node.body, f"{prefix}{node.name}.")
            case ast.FunctionDef():
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                yield prefix + node.name, (first - 1, node.end_lineno)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name, (node.lineno - 1, node.end_lineno)
            case ast.Import() | ast.ImportFrom():
                yield ast.unparse(node), (node.lineno - 1, node.end_lineno)
