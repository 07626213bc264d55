"""``microscope``: what ``llm-numba microscope`` prints, printed while the site is built.

::

    ```{microscope} transpose
    :steps: tile
    ```
    ```{microscope} tests/docs/listings/blur.py:blur
    :args: docs/_ext/figures/course.py:chase_example
    ```

The arguments of a file's kernel come from the file, or from where the option says.
"""

import io
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from ladders import examination_of, note_sources, options_of_examination
from rich.console import Console
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.microscope import examine_file, find_ladder, is_file
from llm_numba.microscope.terminal import print_examination

ROOT = Path(__file__).parents[2]
_WIDTH = 96


class Microscope(SphinxDirective):
    """The terminal's text, without its colours."""

    required_arguments = 1
    option_spec: ClassVar = {**options_of_examination, "args": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Print into a literal block, as a person would see it in a window of that width."""
        name = self.arguments[0]
        if is_file(name):
            self.env.note_dependency(str(ROOT / name.rpartition(":")[0]))
            builder = self.options.get("args")
            found = examine_file(f"{ROOT}/{name}", builder and f"{ROOT}/{builder}")
        else:
            note_sources(self.env, find_ladder(name))
            found = examination_of(self)
        page = io.StringIO()
        console = Console(file=page, width=_WIDTH, force_terminal=True, color_system=None)
        print_examination(console, found)
        lines = (line.rstrip() for line in page.getvalue().splitlines())
        text = "\n".join(lines).replace(f"{ROOT}/", "")
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("microscope", Microscope)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
