"""``comm-plot``, ``comm-table``: what ranks' operations cost, from ``llm-numba bench comm``.

::

    ```{comm-plot} comm_*_4-ranks.json mpi-staged
    ```
    ```{comm-table} comm_*_4-ranks.json mpi-staged
    ```

The first draws time against size, both in factors; the second has a row for each size. Arguments
are a record and what carried the arrays.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench_records import figure, load, provenance
from docutils import nodes
from drawing import WIDTH, Drawing
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

_LINES = {"all_reduce": "a", "all_gather": "b", "send": "c", "copy": "d"}
_NAMES = {"copy": "copy in memory", "send": "to the next rank"}
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 70, 120, 14, 40, 320

Curves = Mapping[str, Sequence[tuple[int, float]]]


class CommPlot(SphinxDirective):
    """A line for each operation."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Draw, and say what made the record."""
        record, curves = _read(self.env, *self.arguments)
        largest = curves["all_reduce"][-1]
        alt = (
            "Time of ranks' operations against the size of the array. An all_reduce takes "
            f"{figure(curves['all_reduce'][0][1])} µs at {curves['all_reduce'][0][0]} bytes and "
            f"{figure(largest[1])} µs at {largest[0]:,} bytes."
        )
        svg = draw({name: curves[name] for name in _LINES}).svg(escape(alt, quote=True))
        drawn = nodes.raw("", f'<figure class="drawing"><div>{svg}</div></figure>', format="html")
        ranks = record["settings"]["ranks"]
        words = f"{{.provenance}}\n{ranks} ranks; {provenance(record)}"
        return [drawn, *self.parse_text_to_nodes(words)]


class CommTable(SphinxDirective):
    """A row for each size, a column for each operation."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        _, curves = _read(self.env, *self.arguments)
        names = [name for name in curves if len(curves[name]) > 1]
        headings = " | ".join(f"{_NAMES.get(name, name)}, µs" for name in names)
        lines = [f"| bytes | {headings} |", "| --: " * (1 + len(names)) + "|"]
        for row in zip(*(curves[name] for name in names), strict=True):
            lines.append(f"| {row[0][0]:,} | " + " | ".join(figure(time) for _, time in row) + " |")
        return self.parse_text_to_nodes("\n".join(lines))


def draw(curves: Curves) -> Drawing:
    """Draw lines through (bytes, µs), both axes in factors.

    Parameters
    ----------
    curves : mapping of str to sequence of (int, float)
        By operation.
    """
    points = [point for curve in curves.values() for point in curve]
    sizes = sorted({size for size, _ in points})
    decades = range(
        math.floor(math.log10(min(time for _, time in points))),
        math.ceil(math.log10(max(time for _, time in points))) + 1,
    )
    width, height = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x_of(size: float) -> float:
        return _LEFT + width * math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])

    def y_of(time: float) -> float:
        share = (math.log10(time) - decades[0]) / (decades[-1] - decades[0])
        return _TOP + height * (1 - share)

    drawing = Drawing(WIDTH, _HEIGHT)
    for decade in decades:
        y = y_of(10.0**decade)
        drawing.line([(_LEFT, y), (_LEFT + width, y)])
        drawing.text(_LEFT - 8, y, f"{10.0**decade:,g} µs", "dim", anchor="end")
    for size in sizes[::2]:
        drawing.text(x_of(size), _TOP + height + 18, _bytes(size), "dim")
    ends = sorted((y_of(curve[-1][1]), name) for name, curve in curves.items())
    lowest = -math.inf
    for y, name in ends:
        drawing.line([(x_of(size), y_of(time)) for size, time in curves[name]], _LINES[name])
        lowest = max(y, lowest + 16)  # names of lines that end close together stay apart
        drawing.text(_LEFT + width + 8, lowest, _NAMES.get(name, name), anchor="start")
    return drawing


def _bytes(size: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} B"


def _read(env: BuildEnvironment, pattern: str, path: str) -> tuple[dict[str, Any], Curves]:
    record = load(env, pattern)
    curves: dict[str, list[tuple[int, float]]] = {}
    for result in record["results"]:
        shape = result["shape"]
        if shape["path"] == path:
            curves.setdefault(shape["operation"], []).append((shape["bytes"], result["median"]))
    if not curves:
        raise ExtensionError(f"{record['file']} has nothing that went by {path}")
    return record, curves


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("comm-plot", CommPlot)
    app.add_directive("comm-table", CommTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
