"""Tables of what ``llm-numba bench engine`` wrote, a record for each model.

::

    ```{engine-classic} llama-3.2-1b
    ```
    ```{engine-decode} llama-3.2-1b
    ```
    ```{engine-fusion} llama-3.2-1b
    ```
    ```{engine-serving} llama-3.2-1b
    ```
    ```{engine-persistent} llama-3.2-1b
    ```

Where there is no record yet, each says which command writes it. Beneath a table stands what its
run left out, and why.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from bench_records import figure, find, left_out, load, on_gpu
from docutils import nodes
from drawing import WIDTH, Drawing
from figure_directive import figure_nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.models import bundled_models

Results = dict[str, dict[str, Any]]  # by name


class EngineTable(SphinxDirective):
    """A table of one model's record, made by a function of the record's results."""

    required_arguments = 1
    make: ClassVar[Callable[[Results], list[str]]]
    # How names begin of what should be in it.
    prefixes: ClassVar[tuple[str, ...]]

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        model = self.arguments[0]
        pattern = f"engine_*_{model}.json"
        if not find(self.env, pattern):
            return self.parse_text_to_nodes(f"*Not measured yet: `{self.command(model)}` does.*")
        record = load(self.env, pattern)
        results = {each["name"]: each for each in record["results"]}
        lines = type(self).make(results)
        missing = left_out(record, self.prefixes)
        if not lines:
            words = missing or f"`{self.command(model)}` measures it."
            return self.parse_text_to_nodes(f"*Not in the record.* {words}")
        below = ["", missing, "", "{.provenance}", on_gpu(record)]
        made = self.parse_text_to_nodes("\n".join([*lines, *below]))
        return [*self.pictures(results), *made]

    def command(self, model: str) -> str:
        """Return what measures a model, which may be bundled or a shape."""
        name = model if model in bundled_models() else f"random:{model}"
        return f"llm-numba bench engine -m {name}"

    def pictures(self, results: Results) -> list[nodes.Node]:
        """Return what stands before the table."""
        return []


def table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table whose first column is of words, and the others of numbers."""
    if not rows:
        return []
    lines = [f"| {' | '.join(headings)} |", f"| --- {'| --: ' * (len(headings) - 1)}|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def of(results: Results, name: str) -> str:
    """Return a result's median with its unit; "-" if there is none."""
    if name not in results:
        return "-"
    return f"{figure(results[name]['median'])} {results[name]['unit']}"


def _points(results: Results) -> list[dict[str, Any]]:
    return [each for name, each in results.items() if name.startswith("decode/")]


def _name(point: dict[str, Any]) -> str:
    shape = point["shape"]
    return f"batch={shape['batch']}/context={shape['context']}"


def classic(results: Results) -> list[str]:
    """Make the table that is usual: one token, many tokens, memory, transfer."""
    rows = []
    for batch, title in ((1, "a token, batch 1"), (32, "a step, batch 32")):
        points = [each for each in _points(results) if each["shape"]["batch"] == batch]
        point = next((each for each in points if each["shape"]["context"] == 512), None)
        if point is None:
            continue
        shape = point["shape"]
        shown = f"{title}, context 512: mean, median, 99th percentile"
        times = (shape["mean_ms"], point["median"], shape["p99_ms"])
        rows.append([shown, ", ".join(f"{each:.3g}" for each in times) + " ms"])
        rate = figure(shape["tokens_per_second"])
        rows.append([f"throughput, batch {batch}", f"{rate} tokens/s"])
        share = of(results, f"transfer/{_name(point)}")
        rows.append([f"transfer utilisation, batch {batch}", share])
    for name, each in results.items():
        if name.startswith(("first_token/", "peer/", "memory/")):
            rows.append([each["what"], of(results, name)])
    return table(["measured", "figure"], rows)


def decode(results: Results) -> list[str]:
    """Make the table of all decode points."""
    rows = []
    for point in _points(results):
        shape = point["shape"]
        rows.append([
            f"{shape['batch']} x {shape['context']:,}",
            *(f"{each:.3g}" for each in (shape["mean_ms"], point["median"], shape["p99_ms"])),
            figure(shape["tokens_per_second"]),
            of(results, f"transfer/{_name(point)}"),
            f"{point['n']}",
        ])  # fmt: skip
    headings = ["batch x context", "mean ms", "median", "p99", "tokens/s", "of the copy", "steps"]
    return table(headings, rows)


def fusion(results: Results) -> list[str]:
    """Make the cumulative table: each row has what the one before has, and one thing more."""
    found = [each for name, each in results.items() if name.startswith("fusion/")]
    batches = list(dict.fromkeys(each["shape"]["batch"] for each in found))
    headings = ["what runs"]
    for batch in batches:
        headings += [f"batch {batch}, ms", "saved by it"]
    rows: dict[str, list[str]] = {}
    for batch in batches:
        before = None
        for each in (each for each in found if each["shape"]["batch"] == batch):
            saved = "" if before is None else f"{100 * (1 - each['median'] / before):.1f} %"
            row = rows.setdefault(each["shape"]["what"], [])
            row += [f"{each['median']:.3g}", saved]
            before = each["median"]
    return table(headings, [[what, *cells] for what, cells in rows.items()])


def serving(results: Results) -> list[str]:
    """Make the table of many requests at once."""
    found = [each for name, each in results.items() if name.startswith("serving/")]
    return table(["measured", "figure"], [[e["what"], of(results, e["name"])] for e in found])


def persistent(results: Results) -> list[str]:
    """Make the table of the persistent kernel against the graph of kernels."""
    found: dict[int, dict[str, float]] = {}
    for name, each in results.items():
        if name.startswith("persistent/"):
            ways = found.setdefault(each["shape"]["context"], {})
            ways[each["shape"]["way"]] = each["median"]
    rows = []
    for context, ways in sorted(found.items()):
        if len(ways) == 2:
            graph, kernel = ways["graph"], ways["kernel"]
            winner = "one kernel" if kernel < graph else "graph"
            share = f"{100 * abs(1 - kernel / graph):.1f} %"
            rows.append([f"{context:,}", f"{graph:.3g}", f"{kernel:.3g}", winner, share])
    headings = ["context", "graph of kernels, ms", "one kernel, ms", "who wins", "by"]
    return table(headings, rows)


def curve(points: list[dict[str, Any]], axis: str) -> Drawing:
    """Draw median milliseconds against batch or context, each twice as long as the one before.

    Parameters
    ----------
    points : list of dict
        Decode results along one axis.
    axis : {"batch", "context"}
    """
    left, top, height = 70, 34, 190
    picture = Drawing(WIDTH, top + height + 52)
    room = (WIDTH - left - 40) / max(len(points) - 1, 1)
    most = max(each["shape"]["p99_ms"] for each in points)

    def place(i: int, value: float) -> tuple[float, float]:
        return left + room * i, top + height * (1 - value / most)

    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        picture.line([(left, y), (WIDTH - 30, y)])
        picture.text(left - 8, y, figure(share * most), "dim", anchor="end")
    for i, each in enumerate(points):
        picture.text(left + room * i, top + height + 16, f"{each['shape'][axis]:,}")
        x, y = place(i, each["median"])
        picture.line([(x, y), place(i, each["shape"]["p99_ms"])], "whisker")
        picture.rect(x - 3, y - 3, 6, 6, "a")
    picture.line([place(i, each["median"]) for i, each in enumerate(points)], "a")
    picture.text(left + (WIDTH - left) / 2, top + height + 38, axis, "dim")
    picture.text(left - 8, 10, "ms a step", "dim", anchor="end")
    return picture


class Classic(EngineTable):
    """The classic table."""

    make = classic
    prefixes = ("first_token", "peer")


class Decode(EngineTable):
    """Every decode point, with a curve along the batches and one along the contexts."""

    make = decode
    prefixes = ("decode",)

    def pictures(self, results: Results) -> list[nodes.Node]:
        """Draw the median of a step, and how far the 99th percentile is above it."""
        points, drawn = _points(results), []
        for axis, other in (("batch", "context"), ("context", "batch")):
            values = [each["shape"][other] for each in points]
            fixed = max(set(values), key=values.count)
            chosen = [each for each in points if each["shape"][other] == fixed]
            chosen.sort(key=lambda each: each["shape"][axis])
            if len(chosen) > 2:
                alt = f"Milliseconds a step by {axis}, at {other} {fixed:,}."
                words = f"By {axis}, {other} {fixed:,}: the median, up to the 99th percentile."
                drawn += figure_nodes(curve(chosen, axis), alt, words)
        return drawn


class Fusion(EngineTable):
    """The cumulative table of fusions."""

    make = fusion
    prefixes = ("fusion",)


class Serving(EngineTable):
    """Many requests at once."""

    make = serving
    prefixes = ("serving",)


class Persistent(EngineTable):
    """One kernel for a step against a graph of kernels."""

    make = persistent
    prefixes = ("persistent",)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for each in (Classic, Decode, Fusion, Serving, Persistent):
        app.add_directive(f"engine-{each.__name__.lower()}", each)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
