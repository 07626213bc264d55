"""``sweep-plot``: threads and registers against occupancy and time, from ``llm-numba bench sweep``.

::

    ```{sweep-plot} softmax
    ```

A row for each candidate of the launch, a column for each limit on registers. In a cell stand time
and occupancy; the faster, the fuller its colour. A cell whose kernel spills is marked.
"""

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any

from bench_records import figure, load, on_gpu
from docutils import nodes
from drawing import WIDTH, Drawing
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

RECORDS = "sweep_*.json"
_ROW, _TOP, _LEFT = 40, 46, 170
_LETTERS = 24  # that have room to the left of the map


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
        best = min(results, key=lambda each: each["median"])
        alt = (
            f"Times of {kernel} by launch and limit on registers; the best is "
            f"{figure(best['median'])} µs with {best['shape']['config']}."
        )
        svg = draw(results).svg(escape(alt, quote=True))
        drawing = nodes.raw("", f'<figure class="drawing"><div>{svg}</div></figure>', format="html")
        return [drawing, *self.parse_text_to_nodes(f"{{.provenance}}\n{on_gpu(record)}")]


def draw(results: Sequence[dict[str, Any]]) -> Drawing:
    """Draw a map.

    Parameters
    ----------
    results : sequence of dict
        Of the record, all of one kernel.
    """
    configs = list(dict.fromkeys(each["shape"]["config"] for each in results))
    limits = list(dict.fromkeys(each["shape"]["limit"] for each in results))
    drawing = Drawing(WIDTH, _TOP + _ROW * len(configs) + 6)
    width = (WIDTH - _LEFT) / len(limits)
    drawing.text(_LEFT - 8, 14, "at most this many registers", "dim", anchor="end")
    for column, limit in enumerate(limits):
        drawing.text(_LEFT + width * (column + 0.5), 14, str(limit or "own"), "dim")
    drawing.text(_LEFT - 8, 32, "µs, warps an SM holds", "dim", anchor="end")
    fastest = min(each["median"] for each in results)
    for row, config in enumerate(configs):
        lines = wrap(config, _LETTERS)
        for i, line in enumerate(lines):
            y = _TOP + _ROW * (row + 0.5) + (i - (len(lines) - 1) / 2) * 13
            drawing.text(_LEFT - 8, y, line, anchor="end")
    for each in results:
        found = each["shape"]
        x = _LEFT + width * limits.index(found["limit"])
        y = _TOP + _ROW * configs.index(found["config"])
        share = fastest / each["median"]
        spilled = " *" if found["local_bytes"] else ""
        lines = [f"{figure(each['median'])}{spilled}", f"{100 * found['occupancy']:.0f} %"]
        drawing.box(x + 1, y + 1, width - 2, _ROW - 2, lines, "a", opacity=max(0.05, share**3))
    return drawing


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("sweep-plot", SweepPlot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
