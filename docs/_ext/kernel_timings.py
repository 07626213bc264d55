"""``ladder-timings``: the steps of a ladder on a GPU, from what ``llm-numba bench kernels`` wrote.

::

    ```{ladder-timings} softmax/float32, softmax/bfloat16
    ```
    ```{ladder-summary}
    ```

The first names points of the benchmark, a table each. The second has a row for each point, with its
first and its last step.
"""

from typing import Any

from bench_records import figure, load, on_gpu
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

RECORDS = "kernels_*.json"
# Of a result's shape: not its sizes.
_NOT_SIZES = {"dtype", "microseconds", "host_microseconds", "host_bound", "bytes", "flops"}


class LadderTimings(SphinxDirective):
    """A row for each step: time, speed, and the share of what the machine or PyTorch reaches."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, RECORDS)
        results = {each["name"]: each for each in record["results"]}
        eager = record["settings"]["pytorch"]
        lines: list[str] = []
        for point in (name.strip() for name in self.arguments[0].split(",")):
            lines += [*_table(point, results, eager.get(point)), ""]
        lines += ["{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


class LadderSummary(SphinxDirective):
    """A row for each point: where its ladder begins, where it ends."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, RECORDS)
        results = {each["name"]: each for each in record["results"]}
        points = dict.fromkeys(name.rpartition("/")[0] for name in results if name.count("/") == 2)
        lines = ["| operation | first step | last step | of the copy | of PyTorch |",
                 "| --- " + "| --: " * 4 + "|"]  # fmt: skip
        for point in points:
            steps = [name for name in results if name.rpartition("/")[0] == point]
            first, *_, last = [name for name in steps if not name.endswith("/pytorch")]
            share, ratio = results.get(f"of_copy/{last}"), results.get(f"of_pytorch/{last}")
            of_copy = f"{figure(share['median'])} %" if share else ""
            of_pytorch = f"{figure(ratio['median'])} x" if ratio else ""
            lines.append(
                f"| `{point}` | {_speed(results[first])} | {_speed(results[last])} "
                f"| {of_copy} | {of_pytorch} |"
            )
        lines += ["", "{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


def _speed(result: dict[str, Any]) -> str:
    return f"{figure(result['median'])} {result['unit']}"


def _table(point: str, results: dict[str, dict[str, Any]], eager: str | None) -> list[str]:
    steps = [name.rpartition("/")[2] for name in results if name.rpartition("/")[0] == point]
    if not steps:
        raise ExtensionError(f"no record has timings of {point}")
    memory = f"of_copy/{point}/{steps[-1]}" in results
    against = eager is not None and f"of_pytorch/{point}/{steps[-1]}" in results
    shape = results[f"{point}/{steps[-1]}"]["shape"]
    sizes = ", ".join(f"{axis} = {n:,}" for axis, n in shape.items() if axis not in _NOT_SIZES)
    operation = point.partition("/")[0]
    headings = [f"`{operation}`, {shape['dtype']}, {sizes}", "µs", "GB/s" if memory else "TFLOP/s"]
    headings += ["of the copy"] * memory + [f"of `{eager}`"] * against
    lines = [f"| {' | '.join(headings)} |", f"| --- {'| --: ' * (len(headings) - 1)}|"]
    for step in steps:
        entry = results[f"{point}/{step}"]
        cells = ["PyTorch" if step == "pytorch" else f"`{step}`"]
        cells += [figure(entry["shape"]["microseconds"]), figure(entry["median"])]
        if memory:
            cells.append(f"{figure(results[f'of_copy/{point}/{step}']['median'])} %")
        if against:
            ratio = results.get(f"of_pytorch/{point}/{step}")
            cells.append(f"{figure(ratio['median'])} x" if ratio else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("ladder-timings", LadderTimings)
    app.add_directive("ladder-summary", LadderSummary)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
