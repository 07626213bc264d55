"""``error-index``: every error class, and every message that the source raises it with.

::

    ```{error-index}
    ```

A section for each class of :mod:`llm_numba.errors`, with its subclasses.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from error_messages import PACKAGE, Message, by_class
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba import errors

_BASE = errors.LLMNumbaError.__name__


def sections() -> Iterator[str]:
    """Write the lines of the page."""
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.LLMNumbaError)
    }
    # The base last: what it is raised with concerns single commands.
    for name, found in sorted(by_class(classes).items(), key=lambda each: each[0] == _BASE):
        kind = classes[name]
        yield f"## {name}\n"
        about = "What fits none of the others." if name == _BASE else inspect.getdoc(kind)
        yield f"{about}\n"
        if issubclass(kind, ValueError):
            yield "It is a `ValueError` as well.\n"
        for message in found:
            own = "" if message.error == name else f"`{message.error}`: "
            yield f"{own}{shown(message.cause)}"
            yield from _definition(message)


def _definition(message: Message) -> Iterator[str]:
    yield f": {shown(message.remedy)}\n"
    yield f"  `{message.module}`\n"


def shown(template: str) -> str:
    """Write a template in Markdown, its gaps in italics."""
    for sign in r"\`*_[]<|$":
        template = template.replace(sign, f"\\{sign}")
    return " ".join(template.replace("{", "*").replace("}", "*").split())


class ErrorIndex(SphinxDirective):
    """Write one section for each class."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        for path in PACKAGE.rglob("*.py"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(sections()), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("error-index", ErrorIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
