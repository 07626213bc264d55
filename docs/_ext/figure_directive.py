"""``figure-of``: a drawing made while the site is built, from the code and the bundled model.

::

    ```{figure-of} attention.causal_weights
    :alt: what a reader who cannot see it should know
    The caption, where names stand in `backticks`.
    ```

names a function in ``docs/_ext/figures`` that returns a :class:`drawing.Drawing`. The SVG goes into
the page itself, so that it takes the page's colours, light or dark. Its links lead to sources, and
are checked as those of ``{src}`` are.
"""

import re
from collections.abc import Sequence
from html import escape
from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from source_role import source_address
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench.drawing import Drawing

_AS_CODE = r'<code class="docutils literal">\1</code>'


def figure_nodes(
    drawing: Drawing, alt: str, caption: str, addresses: Sequence[str] = ()
) -> list[nodes.Node]:
    """Return the nodes that put a drawing into a page; the caption is HTML."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    svg = drawing.svg(escape(alt), addresses)
    html = f'<figure class="drawing"><div>{svg}</div>{below}</figure>'
    return [nodes.raw("", html, format="html")]


class FigureOf(SphinxDirective):
    """Draw a figure."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Call the named function."""
        module, _, function = self.arguments[0].rpartition(".")
        figures = import_module(f"figures.{module}")
        self.env.note_dependency(figures.__file__)
        drawing = getattr(figures, function)()
        addresses = [self._address(target) for target in drawing.links]
        caption = re.sub("`(.+?)`", _AS_CODE, escape(" ".join(self.content)))
        return figure_nodes(drawing, self.options["alt"], caption, addresses)

    def _address(self, target: str) -> str:
        """Return where a link leads: to ``page:command-line``, or to a source."""
        if not target.startswith("page:"):
            return source_address(self.env, target, self.lineno)
        name = target.removeprefix("page:")
        if name not in self.env.found_docs:
            raise self.error(f"a link in the drawing leads to {name!r}, which is no page")
        return "../" * self.env.docname.count("/") + f"{name}.html"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("figure-of", FigureOf)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
