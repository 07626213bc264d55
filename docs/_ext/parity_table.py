"""``parity-fixtures``: the checkpoints that the tests hold the engine to, from their manifest."""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

MANIFEST = Path(__file__).parents[2] / "tests" / "golden" / "manifest.json"


class ParityFixtures(SphinxDirective):
    """One row for each checkpoint: what it covers, and which Transformers wrote it."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        self.env.note_dependency(str(MANIFEST))
        lines = ["| checkpoint | what it covers | Transformers |", "| --- | --- | --- |"]
        lines += [
            f"| `{case['name']}` | {', '.join(case['covers']).replace('_', chr(92) + '_')} "
            f"| {case['transformers']} |"
            for case in json.loads(MANIFEST.read_text())
        ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("parity-fixtures", ParityFixtures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
