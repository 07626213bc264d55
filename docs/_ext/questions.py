"""``question``: a question whose answer is folded away.

::

    :::{question} Why is the barrier outside the branch?
    Because all threads of the block must come to it.
    :::
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Question(SphinxDirective):
    """The browser's own fold: it needs no script, and prints open where a style says so."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Put the answer between the tags."""
        self.assert_has_content()
        asked, messages = self.parse_inline(" ".join(self.arguments[0].split()))
        return [
            nodes.raw("", '<details class="question"><summary>', format="html"),
            nodes.inline("", "", *asked),
            nodes.raw("", "</summary>", format="html"),
            *messages,
            *self.parse_content_to_nodes(),
            nodes.raw("", "</details>", format="html"),
        ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("question", Question)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
