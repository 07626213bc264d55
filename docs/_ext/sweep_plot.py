"""``sweep-plot``: threads and registers against occupancy and time, from ``llm-numba bench sweep``.

::

    ```{sweep-plot} softmax
    ```

A row for each candidate of the launch, a column for each limit on registers. In a cell stand time
and occupancy; the faster, the fuller its colour. A cell whose kernel spills is marked.
"""

from html import escape
from typing import Any

from bench_records import load, on_gpu
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench.sweep_picture import describe, draw

RECORDS = "sweep_*.json"


class SweepPlot(SphinxDirective):
    """A map of one kernel's times."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Draw the map, and say what it was measured on."""
        record = load(self.env, RECORDS)
        kernel = self.arguments[0]
        results = [each for each in record["results"] if each["name"].startswith(f"{kernel}/")]
        if not results:
            raise ExtensionError(f"no record has a sweep of {kernel}")
        svg = draw(results).svg(escape(describe(kernel, results), quote=True))
        drawing = nodes.raw("", f'<figure class="drawing"><div>{svg}</div></figure>', format="html")
        return [drawing, *self.parse_text_to_nodes(f"{{.provenance}}\n{on_gpu(record)}")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("sweep-plot", SweepPlot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
