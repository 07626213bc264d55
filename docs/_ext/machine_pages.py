"""What the CUDA course shows: counted by the simulator, beside what ``bench machine`` measured.

::

    ```{microscope-of} course.strides
    The caption.
    ```
    ```{machine-plot} chase
    ```
    ```{machine-table} banks
    ```
    ```{overlap-timeline} overlap/streams=2/chunks=8
    ```
    {machine}`l2_bytes`

The first draws what a function in ``docs/_ext/figures`` examined. Plots and tables need a record;
where a table has a count, the simulator counts it while the page is built. ``{machine}`` is what
the driver says of the GPU.
"""

from collections.abc import Callable
from html import escape
from importlib import import_module
from typing import Any

from bench_records import figure, load, on_gpu, select
from docutils import nodes
from figure_directive import figure_nodes
from figures import course
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.bench.log_plot import draw, in_bytes
from llm_numba.microscope import describe
from llm_numba.microscope import draw as draw_examination

RECORDS = "machine_*.json"
_STYLES = {"copy in": "a", "compute": "b", "copy out": "c"}
_LEFT, _ROW, _HEIGHT = 82, 40, 28

Record = dict[str, Any]


class MicroscopeOf(SphinxDirective):
    """The microscope's picture of what a function examined; the caption is the content."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        module, _, function = self.arguments[0].rpartition(".")
        figures = import_module(f"figures.{module}")
        self.env.note_dependency(figures.__file__)
        found = getattr(figures, function)()
        html = (
            f'<figure class="drawing microscope"><div>{draw_examination(found, themed=True)}</div>'
            f"<figcaption>{escape(' '.join(self.content))}</figcaption></figure>"
        )
        picture = nodes.raw("", html, format="html")
        picture["alt"] = describe(found)
        return [picture]


class MachinePlot(SphinxDirective):
    """One of the lines over sizes: ``chase``, ``bandwidth``, ``warps``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Draw it, and say what it was measured on."""
        record = load(self.env, RECORDS)
        drawing, alt = _PLOTS[self.arguments[0]](record)
        drawn = figure_nodes(drawing, alt, _BELOW[self.arguments[0]])
        return [*drawn, *self.parse_text_to_nodes(f"{{.provenance}}\n{on_gpu(record)}")]


class MachineTable(SphinxDirective):
    """One of the tables that have counts beside times: ``banks``, ``strides``, ``paths``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, RECORDS)
        self.env.note_dependency(course.__file__)
        lines = [*_TABLES[self.arguments[0]](record), "", "{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


class OverlapTimeline(SphinxDirective):
    """When the GPU copied and computed: a row a stage, a box a chunk."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Draw it to the scale of the slowest way, so that pictures compare."""
        record = load(self.env, RECORDS)
        (result,) = select(record, self.arguments[0])
        timelines = record["timelines"]
        whole = max(end for each in timelines.values() for *_, end in each)
        drawing = timeline(timelines[result["name"]], whole)
        said = f"{result['what']}: {figure(result['median'])} ms."
        return figure_nodes(drawing, f"When each chunk was copied and computed. {said}", said)


class MachineProperty(SphinxRole):
    """What the driver says of the GPU; bytes in KiB or MiB."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Look it up."""
        value = load(self.env, RECORDS)["settings"]["gpu"][self.text]
        return [nodes.Text(in_bytes(value) if self.text.endswith("bytes") else f"{value:,}")], []


def timeline(spans: list[list[Any]], whole: float) -> Drawing:
    """Draw when which stage worked on which chunk.

    Parameters
    ----------
    spans : list of (stage, chunk, begin, end)
        In milliseconds.
    whole : float
        Milliseconds of the drawing's width.
    """
    stages = list(dict.fromkeys(stage for stage, *_ in spans))
    drawing = Drawing(WIDTH, _ROW * len(stages) + 22)
    scale = (WIDTH - _LEFT - 8) / whole
    for row, stage in enumerate(stages):
        y = _ROW * row + 4
        drawing.text(_LEFT - 8, y + _HEIGHT / 2, stage, anchor="end")
        drawing.rect(_LEFT, y, whole * scale, _HEIGHT, "soft")
    for stage, chunk, begin, end in spans:
        width = (end - begin) * scale
        drawing.box(
            _LEFT + begin * scale, _ROW * stages.index(stage) + 4, max(width, 1), _HEIGHT,
            str(chunk) if width > 10 else "", _STYLES[stage], text="small",
            opacity=0.3 + 0.25 * (chunk % 2),
        )  # fmt: skip
    drawing.text(_LEFT, _ROW * len(stages) + 10, "0", "dim", anchor="start")
    drawing.text(WIDTH - 8, _ROW * len(stages) + 10, f"{figure(whole)} ms", "dim", anchor="end")
    return drawing


def _over_bytes(record: Record, family: str) -> list[tuple[float, float]]:
    found = select(record, f"{family}/bytes=*")
    return [(each["shape"]["bytes"], each["median"]) for each in found]


def _ticks(points: list[tuple[float, float]]) -> list[float]:
    sizes = [size for size, _ in points if int(size).bit_count() == 1]
    return sizes[:: max(1, len(sizes) // 6)]


def _over_sizes(record: Record, points: list[tuple[float, float]], name: str, unit: str) -> Drawing:
    return draw(
        {name: points},
        {name: "a"},
        unit=unit,
        tick=in_bytes,
        ticks=_ticks(points),
        marks={"L2": record["settings"]["gpu"]["l2_bytes"]},
    )


def _plot_chase(record: Record) -> tuple[Drawing, str]:
    points = _over_bytes(record, "chase")
    return _over_sizes(record, points, "a load", "cycles"), (
        "Cycles of one load against the size of the ring that it walks: a staircase from "
        f"{figure(points[0][1])} cycles at {in_bytes(points[0][0])} to {figure(points[-1][1])} at "
        f"{in_bytes(points[-1][0])}."
    )


def _plot_bandwidth(record: Record) -> tuple[Drawing, str]:
    points = _over_bytes(record, "bandwidth")
    return _over_sizes(record, points, "read", "GB/s"), (
        f"Bytes read a second against the size of the array: {figure(points[0][1])} GB/s at "
        f"{in_bytes(points[0][0])}, {figure(points[-1][1])} at {in_bytes(points[-1][0])}."
    )


def _plot_warps(record: Record) -> tuple[Drawing, str]:
    found = select(record, "warps/warps=*")
    points = [(float(each["name"].rpartition("=")[2]), each["median"]) for each in found]
    drawing = draw(
        {"read": points},
        {"read": "a"},
        unit="GB/s",
        tick=lambda warps: f"{warps:g}",
        ticks=[warps for warps, _ in points],
    )
    return drawing, "Bytes read a second against warps on an SM: " + ", ".join(
        f"{figure(rate)} GB/s with {warps:g}" for warps, rate in points
    )


def _table_banks(record: Record) -> list[str]:
    one, many = (select(record, f"banks/{kind}/*") for kind in ("one_warp", "many_warps"))
    lines = [
        "| stride | ways, counted | cycles, one warp | of 32 warps, each |",
        "| --: | --: | --: | --: |",
    ]
    for alone, among in zip(one, many, strict=True):
        stride = alone["shape"]["stride"]
        ways = max(line.max_bank_ways for line in course.report_of_banks(stride).lines)
        lines.append(
            f"| {stride} | {ways} | {figure(alone['median'])} | {figure(among['median'])} |"
        )
    return lines


def _table_strides(record: Record) -> list[str]:
    lines = [
        "| stride | first word | sectors a request, counted | asked for, GB/s | moved, GB/s |",
        "| --: | --: | --: | --: | --: |",
    ]
    for each in select(record, "stride/stride=*, stride/offset=*"):
        stride, offset = each["shape"]["stride"], each["shape"]["offset"]
        reads = max(course.report_of_stride(stride, offset).lines, key=lambda x: x.global_requests)
        sectors = reads.global_sectors / reads.global_requests
        # 32 lanes ask for 4 bytes each, and a sector has 32.
        moved = each["median"] * sectors / 4
        lines.append(
            f"| {stride} | {offset} | {figure(sectors)} | {figure(each['median'])} | "
            f"{figure(moved)} |"
        )
    return lines


def _table_paths(record: Record) -> list[str]:
    lanes, warps = (select(record, f"paths/{kind}/*") for kind in ("lanes", "warps"))
    lines = [
        "| paths | lanes part: cycles | times one path | warps part: cycles | times one path |",
        "| --: | --: | --: | --: | --: |",
    ]
    for one, other in zip(lanes, warps, strict=True):
        cells = [
            cell
            for each, first in ((one, lanes[0]), (other, warps[0]))
            for cell in (figure(each["median"]), figure(each["median"] / first["median"]))
        ]
        lines.append(f"| {one['shape']['paths']} | {' | '.join(cells)} |")
    return lines


_BELOW = {
    "chase": "Cycles of one load, by the size of the ring.",
    "bandwidth": "Bytes a second of all loads together, by the size of the array.",
    "warps": "Bytes a second of all loads together, by the warps on each SM.",
}
_PLOTS: dict[str, Callable[[Record], tuple[Drawing, str]]] = {
    "chase": _plot_chase,
    "bandwidth": _plot_bandwidth,
    "warps": _plot_warps,
}
_TABLES: dict[str, Callable[[Record], list[str]]] = {
    "banks": _table_banks,
    "strides": _table_strides,
    "paths": _table_paths,
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the role."""
    app.add_directive("microscope-of", MicroscopeOf)
    app.add_directive("machine-plot", MachinePlot)
    app.add_directive("machine-table", MachineTable)
    app.add_directive("overlap-timeline", OverlapTimeline)
    app.add_role("machine", MachineProperty())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
