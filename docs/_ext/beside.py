"""``beside``: what others write, and our listing that does the same.

::

    ```{beside} attention_torch.py
    ```

The first is a file of ``tests/docs/beside``, which is run, or compiled, where its tools are
installed. The second is ``tests/docs/listings/beside_attention.py``; below stands what it prints.
"""

from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS_TESTS = Path(__file__).parents[2] / "tests" / "docs"


class Beside(SphinxDirective):
    """Two listings in a row, and the output of the second."""

    required_arguments = 1
    names: ClassVar = {".py": ("PyTorch", "python"), ".cu": ("CUDA C++", "cuda")}

    def run(self) -> list[nodes.Node]:
        """Include the files."""
        theirs = DOCS_TESTS / "beside" / self.arguments[0]
        name, language = self.names[theirs.suffix]
        ours = DOCS_TESTS / "listings" / f"beside_{theirs.stem.removesuffix('_torch')}.py"
        both = nodes.container(classes=["beside"])
        both += self._listing(name, theirs, language)
        both += self._listing("llm_numba", ours, "python")
        printed = ours.with_suffix(".out")
        return [both, nodes.paragraph("", "It prints"), self._text(printed, "text")]

    def _listing(self, title: str, path: Path, language: str) -> nodes.container:
        heading = nodes.paragraph("", "", nodes.strong("", title))
        return nodes.container("", heading, self._text(path, language))

    def _text(self, path: Path, language: str) -> nodes.literal_block:
        self.env.note_dependency(str(path))
        text = path.read_text()
        return nodes.literal_block(text, text, language=language)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("beside", Beside)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
