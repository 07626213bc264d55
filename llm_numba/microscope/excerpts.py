"""The source of a kernel and of the functions it calls, each line beside its cost."""

import ast
import linecache
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from llm_numba.microscope.words import printable
from llm_numba.simulator import LineReport, Report


@dataclass(frozen=True)
class Line:
    """A source line.

    Attributes
    ----------
    number : int
        In its file, from 1.
    text : str
        Without the indentation of its function, and without control characters.
    cost : LineReport or None
        None where the line touched no memory and never diverged.
    """

    number: int
    text: str
    cost: LineReport | None


@dataclass(frozen=True)
class Excerpt:
    """One function, without its docstring.

    Attributes
    ----------
    file : str
    lines : tuple of Line
    """

    file: str
    lines: tuple[Line, ...]


def excerpts(kernel: Any, report: Report) -> list[Excerpt]:
    """Return the kernel's source, then that of each function in which a line cost something.

    Parameters
    ----------
    kernel : dispatcher
    report : Report
        Of its launch, with ``explain=True``.
    """
    code = kernel.py_func.__code__
    costs = {(line.file, line.line): line for line in report.lines}
    # Its first line, a decorator perhaps, lies in the innermost function that is the kernel.
    spans = [_span_around(code.co_filename, code.co_firstlineno)]
    for file, number in sorted(costs):
        if not any(span.holds(file, number) for span in spans):
            spans.append(_span_around(file, number))
    return [Excerpt(span.file, tuple(_lines(span, costs))) for span in spans]


def context(file: str, numbers: Collection[int], around: int = 2) -> list[Line]:
    """Return lines and some before and behind each; nothing if there is no such file.

    Parameters
    ----------
    file : str
    numbers : collection of int
        From 1.
    around : int
        How many lines on each side.
    """
    linecache.checkcache(file)
    wanted = {each for number in numbers for each in range(number - around, number + around + 1)}
    found = {each: text for each in sorted(wanted) if (text := linecache.getline(file, each))}
    texts = _dedented(list(found.values()))
    return [Line(each, text, None) for each, text in zip(found, texts, strict=True)]


@dataclass(frozen=True)
class _Span:
    """Lines of a file, and those among them that are a docstring."""

    file: str
    first: int
    last: int
    docstring: range = range(0)

    def holds(self, file: str, number: int) -> bool:
        return file == self.file and self.first <= number <= self.last


def _span_around(file: str, number: int) -> _Span:
    """Return the innermost function around a line; the line alone if there is none."""
    linecache.checkcache(file)
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # typed at a prompt, or changed since it was loaded
        return _Span(file, number, number)
    around = [span for span in _functions(file, tree) if span.holds(file, number)]
    return max(around, key=lambda span: span.first, default=_Span(file, number, number))


def _functions(file: str, tree: ast.AST) -> Iterator[_Span]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            docstring = range(0)
            if ast.get_docstring(node) is not None and len(node.body) > 1:
                docstring = range(node.body[0].lineno, node.body[0].end_lineno + 1)
            yield _Span(file, first, node.end_lineno, docstring)


def _lines(span: _Span, costs: dict[tuple[str, int], LineReport]) -> Iterator[Line]:
    numbers = [each for each in range(span.first, span.last + 1) if each not in span.docstring]
    texts = _dedented([linecache.getline(span.file, each) for each in numbers])
    for number, text in zip(numbers, texts, strict=True):
        yield Line(number, text, costs.get((span.file, number)))


def _dedented(texts: list[str]) -> list[str]:
    """Take off the common indentation."""
    clean = [printable(text.rstrip().expandtabs()) for text in texts]
    indents = [len(text) - len(text.lstrip()) for text in clean if text]
    return [text[min(indents, default=0) :] for text in clean]
