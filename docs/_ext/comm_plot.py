"""``comm-plot``, ``comm-table``: what ranks' operations cost, from ``llm-numba bench comm``.

::

    ```{comm-plot} comm_*_4-ranks.json mpi-staged
    ```
    ```{comm-table} comm_*_4-ranks.json mpi-staged
    ```
    ```{comm-plot} comm_*nvidia*_2-ranks.json all_reduce
    ```
    ```{comm-table} comm_*nvidia*_2-ranks.json send
    :bandwidth:
    ```

The first draws time against size, both in factors; the second has a row for each size. Arguments
are a record, and what carried the arrays: then there is a line or a column for each operation. Or
an operation: then there is one for each path. Bandwidth is of the bytes that a rank must send.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, ClassVar

from bench_records import figure, load, on_gpu, provenance
from docutils import nodes
from docutils.parsers.rst import directives
from drawing import WIDTH, Drawing
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

_LINES = {"all_reduce": "a", "all_gather": "b", "send": "c", "copy": "d"}
_PATHS = {"peer": "a", "nccl": "b", "mpi": "c", "mpi-staged": "d"}
_LONG = 1 << 16  # bytes from which on bandwidth is worth a column
_NAMES = {"copy": "copy in memory", "send": "to the next rank"}
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 70, 120, 14, 40, 320

Curves = Mapping[str, Sequence[tuple[int, float]]]


class CommPlot(SphinxDirective):
    """A line for each operation, or for each path."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Draw, and say what made the record."""
        record, curves = _read(self.env, *self.arguments)
        styles = _PATHS if self.arguments[1] in _LINES else _LINES
        drawn = {name: curves[name] for name in styles if name in curves}
        name, shown = next(iter(drawn.items()))
        what = "operations, by path" if styles is _PATHS else "operations"
        alt = (
            f"Time of ranks' {what}, against the size of the array. {name} takes "
            f"{figure(shown[0][1])} µs at {shown[0][0]} bytes and {figure(shown[-1][1])} µs at "
            f"{shown[-1][0]:,} bytes."
        )
        svg = draw(drawn, styles).svg(escape(alt, quote=True))
        picture = nodes.raw("", f'<figure class="drawing"><div>{svg}</div></figure>', format="html")
        made_by = on_gpu if record["settings"].get("device") == "cuda" else provenance
        words = f"{{.provenance}}\n{record['settings']['ranks']} ranks; {made_by(record)}"
        return [picture, *self.parse_text_to_nodes(words)]


class CommTable(SphinxDirective):
    """A row for each size, a column for each operation or each path."""

    required_arguments = 2
    option_spec: ClassVar = {"bandwidth": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        rate = "bandwidth" in self.options
        _, curves = _read(self.env, *self.arguments, rate=rate)
        names = [name for name in curves if len(curves[name]) > 1]
        unit = "GB/s" if rate else "µs"
        headings = " | ".join(f"{_NAMES.get(name, name)}, {unit}" for name in names)
        lines = [f"| bytes | {headings} |", "| --: " * (1 + len(names)) + "|"]
        columns = [dict(curves[name]) for name in names]
        for size in sorted(set().union(*columns)):
            cells = (figure(column[size]) if size in column else "-" for column in columns)
            lines.append(f"| {size:,} | {' | '.join(cells)} |")
        return self.parse_text_to_nodes("\n".join(lines))


def draw(curves: Curves, styles: Mapping[str, str]) -> Drawing:
    """Draw lines through (bytes, µs), both axes in factors.

    Parameters
    ----------
    curves : mapping of str to sequence of (int, float)
        By operation, or by path.
    styles : mapping of str to str
        Of their lines.
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
        drawing.line([(x_of(size), y_of(time)) for size, time in curves[name]], styles[name])
        lowest = max(y, lowest + 16)  # names of lines that end close together stay apart
        drawing.text(_LEFT + width + 8, lowest, _NAMES.get(name, name), anchor="start")
    return drawing


def _bytes(size: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} B"


def _read(
    env: BuildEnvironment, pattern: str, what: str, rate: bool = False
) -> tuple[dict[str, Any], Curves]:
    """Return the newest record, and µs by size, or GB/s from 64 KiB on; of a path or operation."""
    record = load(env, pattern)
    by, name = ("operation", "path") if what in _LINES else ("path", "operation")
    curves: dict[str, list[tuple[int, float]]] = {}
    for result in record["results"]:
        shape, time = result["shape"], result["median"]
        if shape[by] != what or (rate and shape["bytes"] < _LONG):
            continue
        value = 1e-3 * shape["bus_bytes"] / time if rate else time
        curves.setdefault(shape[name], []).append((shape["bytes"], value))
    if not curves:
        raise ExtensionError(f"{record['file']} has no {by} {what}")
    return record, curves


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("comm-plot", CommPlot)
    app.add_directive("comm-table", CommTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
