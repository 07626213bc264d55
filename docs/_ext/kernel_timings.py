"""``ladder-timings``: the steps of a ladder on a GPU, from what ``llm-numba bench kernels`` wrote.

::

    ```{ladder-timings} softmax/float32, softmax/bfloat16
    ```
    ```{ladder-summary}
    ```

The first names points of the benchmark, a table each; beneath stands which of their steps a record
is too old for. The second has a row for each point, with its first and its last step.
"""

from typing import Any

from bench_records import load, on_gpu
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench.kernel_tables import PEERS, share, summary
from llm_numba.bench.points import POINTS
from llm_numba.bench.tables import by_name, figure

RECORDS = "kernels_*.json"
# Of a result's shape: not its sizes.
_NOT_SIZES = {
    "dtype", "microseconds", "host_microseconds", "host_bound", "captured", "bytes", "flops"
}  # fmt: skip


class LadderTimings(SphinxDirective):
    """A row for each step: time, speed, and the share of what the machine or PyTorch reaches."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, RECORDS)
        results = by_name(record)
        eager = dict(record["settings"]["pytorch"])
        for later in record.get("renewed", ()):
            eager |= later["settings"]["pytorch"]
        lines: list[str] = []
        for point in (name.strip() for name in self.arguments[0].split(",")):
            lines += [*_table(point, results, eager.get(point)), "", _missing(point, results), ""]
        lines += ["{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


class LadderSummary(SphinxDirective):
    """A row for each point: where its ladder begins, where it ends."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, RECORDS)
        lines = summary(by_name(record)).markdown()
        lines += ["", "{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


def _missing(point: str, results: dict[str, dict[str, Any]]) -> str:
    """Say which steps the benchmark measures by now, and the record lacks; "" if none."""
    measured = next(each for each in POINTS if each.name == point)
    steps = measured.steps or tuple(step.name for step in measured.ladder.steps)
    missing = [f"`{step}`" for step in steps if f"{point}/{step}" not in results]
    return f"*Not in the record: {', '.join(missing)}.*" if missing else ""


def _table(point: str, results: dict[str, dict[str, Any]], eager: str | None) -> list[str]:
    steps = [name.rpartition("/")[2] for name in results if name.rpartition("/")[0] == point]
    if not steps:
        raise ExtensionError(f"no record has timings of {point}")
    memory = f"of_copy/{point}/{steps[-1]}" in results
    peers = [peer for peer in PEERS if f"of_{peer}/{point}/{steps[-1]}" in results]
    shape = results[f"{point}/{steps[-1]}"]["shape"]
    sizes = ", ".join(f"{axis} = {n:,}" for axis, n in shape.items() if axis not in _NOT_SIZES)
    operation = point.partition("/")[0]
    headings = [f"`{operation}`, {shape['dtype']}, {sizes}", "µs", "GB/s" if memory else "TFLOP/s"]
    headings += ["of the copy"] * memory
    headings += [f"of `{eager}`" if peer == "pytorch" else f"of {PEERS[peer]}" for peer in peers]
    lines = [f"| {' | '.join(headings)} |", f"| --- {'| --: ' * (len(headings) - 1)}|"]
    for step in steps:
        entry = results[f"{point}/{step}"]
        cells = [PEERS.get(step, f"`{step}`")]
        cells += [figure(entry["shape"]["microseconds"]), figure(entry["median"])]
        if memory:
            cells.append(share(results, f"of_copy/{point}/{step}", "%"))
        cells += [share(results, f"of_{peer}/{point}/{step}", "x") for peer in peers]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("ladder-timings", LadderTimings)
    app.add_directive("ladder-summary", LadderSummary)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
