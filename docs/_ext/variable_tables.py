"""``variables``: the environment variables that llm_numba reads, from the table that it reads by.

::

    ```{variables} ours
    ```
    ```{variables} others
    ```
"""

from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba import variables


class Variables(SphinxDirective):
    """A row for each variable: those of ours, or those that others brought up."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        whose = directives.choice(self.arguments[0], ("ours", "others"))
        self.env.note_dependency(variables.__file__)
        lines = ["| variable | what it says | without it |", "| --- | --- | --- |"]
        lines += [
            f"| `{each.name}` | {each.meaning} | {each.default} |"
            for each in variables.VARIABLES
            if each.is_ours == (whose == "ours")
        ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("variables", Variables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
