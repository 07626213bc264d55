"""Stages over time, and how long they stood idle, from ``llm-numba bench pipeline``.

::

    ```{pipeline-timeline} pipeline_*-cores_*.json prefill/pieces=4
    ```
    ```{pipeline-bubbles} pipeline_*-cores_*.json prefill/*
    ```

The first draws the quickest run of a case: a row for each stage, a box for each step, the bubble in
between. The second is a table of the bubbles that were measured, beside the formula's.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from bench_records import figure, load, on_gpu, provenance, select
from docutils import nodes
from figure_directive import figure_nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench.drawing import WIDTH, Drawing

_LEFT, _ROW, _HEIGHT = 64, 44, 34
_LETTER = 8  # pixels that a digit takes


class PipelineTimeline(SphinxDirective):
    """A picture of one case."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Draw it, and say what it was measured on."""
        pattern, name = self.arguments
        record = load(self.env, pattern)
        (result,) = select(record, name)
        drawing = draw(record["timelines"][result["name"]])
        alt = (
            f"{result['what']} on {result['shape']['stages']} stages: when each stage computed"
            f" which step. {figure(result['median'])} % of the time is idle."
        )
        drawn = figure_nodes(drawing, alt, escape(f"{result['what']}; shaded is the bubble."))
        return [*drawn, *self.parse_text_to_nodes(f"{{.provenance}}\n{_made_by(record)}")]


class PipelineBubbles(SphinxDirective):
    """A table of bubbles."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Write it, and what it was measured on."""
        pattern, names = self.arguments
        record = load(self.env, pattern)
        lines = [
            "| case | bubble | in 8 of 10 runs | by the formula |",
            "| --- | --- | --- | --- |",
        ]
        for each in select(record, names):
            spread = f"{figure(each['p10'])} to {figure(each['p90'])} %"
            ideal = figure(each["shape"]["ideal"])
            lines.append(f"| {each['what']} | {figure(each['median'])} % | {spread} | {ideal} % |")
        lines += ["", "{.provenance}", _made_by(record)]
        return self.parse_text_to_nodes("\n".join(lines))


def _made_by(record: dict[str, Any]) -> str:
    return (on_gpu if record["settings"].get("device") == "cuda" else provenance)(record)


def draw(timeline: Sequence[Sequence[float]]) -> Drawing:
    """Draw when each stage computed which step.

    Parameters
    ----------
    timeline : sequence of (stage, step, tokens, begin, end)
        In milliseconds.
    """
    stages = 1 + max(int(stage) for stage, *_ in timeline)
    last = max(end for *_, end in timeline)
    drawing = Drawing(WIDTH, _ROW * stages + 26)
    scale = (WIDTH - _LEFT - 8) / last
    for stage in range(stages):
        y = _ROW * stage + 4
        drawing.text(_LEFT - 8, y + _HEIGHT / 2, f"stage {stage}", anchor="end")
        drawing.rect(_LEFT, y, last * scale, _HEIGHT, "soft")
    for stage, step, _, begin, end in timeline:
        words = str(int(step) + 1)
        width = (end - begin) * scale
        fits = width > _LETTER * len(words)
        x, y = _LEFT + begin * scale, _ROW * stage + 4
        style = "ab"[int(step) % 2]
        drawing.box(x, y, width, _HEIGHT, words if fits else "", style, opacity=0.45)
    bottom = _ROW * stages + 12
    drawing.text(_LEFT, bottom, "0", "dim", anchor="start")
    drawing.text(WIDTH - 8, bottom, f"{figure(last)} ms", "dim", anchor="end")
    return drawing


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("pipeline-timeline", PipelineTimeline)
    app.add_directive("pipeline-bubbles", PipelineBubbles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
