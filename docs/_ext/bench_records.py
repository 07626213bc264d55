"""Tables, bar charts and single figures from the records in ``docs/results``.

::

    ```{bench-table} cpu_*.json
    :results: decode/*, prefill/*
    ```
    ```{bench-bars} cpu_*.json
    :results: decode/batch=*
    ```
    {bench}`cpu_*.json decode/batch=1`
    {bench}`cpu_*.json decode/batch=16 ÷ cpu_*.json decode/batch=1`

    ::::{if-record} kernels_*.json rope/*
    ## On a GPU
    ...
    ::::

The first names a record (of several that match, the newest) and the results to show. Beneath stands
what made it: command, machine, packages, commit. Nobody types a figure from a record.
"""

import json
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from figure_directive import figure_nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

from llm_numba.bench.drawing import bars
from llm_numba.bench.record import commit_of, renewals
from llm_numba.bench.tables import figure, left_out, medians

RESULTS = Path(__file__).parents[1] / "results"


def find(env: BuildEnvironment, pattern: str) -> list[dict[str, Any]]:
    """Read all records of a benchmark whose file names match."""
    benchmark = pattern.rpartition("/")[2].removesuffix(".json").partition("_*")[0]
    records = []
    for path in sorted(RESULTS.glob(pattern)):
        record = json.loads(path.read_text())
        if record.get("benchmark") == benchmark:
            env.note_dependency(str(path))
            records.append({**record, "file": f"docs/results/{path.relative_to(RESULTS)}"})
    return records


def load(env: BuildEnvironment, pattern: str) -> dict[str, Any]:
    """Read the newest record whose file name matches.

    ``simulator_*.json`` are records of the benchmark ``simulator``, and not those of
    ``simulator_counters``.
    """
    records = find(env, pattern)
    if not records:
        raise ExtensionError(f"no record docs/results/{pattern}; `llm-numba bench` writes one")
    return max(records, key=lambda record: record["date"])


def select(
    record: dict[str, Any], patterns: str, may_be_empty: bool = False
) -> list[dict[str, Any]]:
    """Return the results whose names match one of the comma-separated patterns, in that order."""
    found = [
        result
        for pattern in patterns.split(",")
        for result in record["results"]
        if fnmatch(result["name"], pattern.strip())
    ]
    if not (found or may_be_empty):
        raise ExtensionError(f"{record['file']} has no result {patterns!r}")
    return found


def provenance(record: dict[str, Any]) -> str:
    """Say in Markdown what made a record."""
    environment = record["environment"]
    device, blas = environment["device"], environment["blas"]
    return (
        f"`{shlex.join(record['command'])}` on {device['name']}, {device['cores']} cores, "
        f"Python {environment['python']}, NumPy {environment['packages']['numpy']} with "
        f"{blas['name']} {blas['version']}, {blas['threads']} threads; {origin(record)}"
    )


def origin(record: dict[str, Any]) -> str:
    """Say which commit a record is of, and where it is."""
    made = f"commit `{commit_of(record)}`, {record['date'][:10]}{renewals(record)}"
    return f"{made}. Record: `{record['file']}`."


def on_gpu(record: dict[str, Any]) -> str:
    """Say in Markdown what made a record on a GPU."""
    gpu = record["environment"]["gpus"][0]
    return (
        f"`{shlex.join(record['command'])}` on {gpu['name']}, driver {gpu['driver']}; "
        f"{origin(record)}"
    )


class IfRecord(SphinxDirective):
    """Sections on what takes a GPU, or quiet minutes, to measure: only if there is a record.

    A pattern after that of the record asks for a result of that name in it. Where there is none, a
    command may be named that measures it.
    """

    required_arguments = 1
    optional_arguments = 1
    option_spec: ClassVar = {"command": directives.unchanged_required}
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Parse the content, headings too, or leave it out."""
        pattern, *names = self.arguments
        results = load(self.env, pattern)["results"] if find(self.env, pattern) else None
        if results is not None and all(
            any(fnmatch(each["name"], name) for each in results) for name in names
        ):
            return self.parse_content_to_nodes(allow_section_headings=True)
        if "command" in self.options:
            words = f"*Not in the record. `{self.options['command']}` measures it.*"
            return self.parse_text_to_nodes(words)
        return []


class BenchTable(SphinxDirective):
    """A table of medians with their spread, and what the run left out of it."""

    required_arguments = 1
    option_spec: ClassVar = {
        "results": directives.unchanged_required,
        "on-gpu": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, self.arguments[0])
        patterns = self.options["results"]
        names = (pattern.strip().partition("*")[0].rstrip("/") for pattern in patterns.split(","))
        missing = left_out(record, tuple(names))
        results = select(record, patterns, may_be_empty=bool(missing))
        if not results:
            return self.parse_text_to_nodes(f"*Not in the record.* {missing}")
        lines = medians(results).markdown()
        made_by = on_gpu if "on-gpu" in self.options else provenance
        lines += ["", missing, "", "{.provenance}", made_by(record)]
        return self.parse_text_to_nodes("\n".join(lines))


class BenchBars(SphinxDirective):
    """Horizontal bars of medians, with whiskers from the 10th to the 90th percentile."""

    required_arguments = 1
    option_spec: ClassVar = {
        "results": directives.unchanged_required,
        "label": directives.unchanged_required,
        "alt": directives.unchanged_required,
        "made-by-below": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Draw, and say beneath what made it."""
        record = load(self.env, self.arguments[0])
        results = select(record, self.options["results"])
        svg = bars([
            (self.options["label"].format(**result["shape"]), result["median"], result["p10"],
             result["p90"], f"{figure(result['median'])} {result['unit']}")
            for result in results
        ])  # fmt: skip
        drawn = figure_nodes(svg, self.options["alt"], "")
        if "made-by-below" in self.options:  # a table of the same record follows
            return drawn
        return [*drawn, *self.parse_text_to_nodes("{.provenance}\n" + provenance(record))]


class BenchFigure(SphinxRole):
    """A result's median with its unit: ``FILE NAME``; or how many times as much as another."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Look it up, or divide."""
        results = [self._result(*part.split(maxsplit=1)) for part in self.text.split("÷")]
        if len(results) == 2:
            quotient = results[0]["median"] / results[1]["median"]
            return [nodes.Text(figure(quotient))], []
        unit = {"x": "times"}.get(results[0]["unit"], results[0]["unit"])
        return [nodes.Text(f"{figure(results[0]['median'])} {unit}")], []

    def _result(self, pattern: str, name: str) -> dict[str, Any]:
        return select(load(self.env, pattern), name.strip())[0]


class WeightTraffic(SphinxRole):
    """The bytes of weights that decoding at batch 1 reads, a token and a second."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Work it out from a record."""
        record = load(self.env, self.text)
        rate = select(record, "decode/batch=1")[0]["median"]
        model = record["settings"]["model"]
        weights = select(record, f"load_peak/{model}")[0]["shape"]["float32_bytes"]
        words = (
            f"{weights / 1e6:.1f} MB of weights a token at {figure(rate)} tokens/s are "
            f"{weights * rate / 1e9:.1f} GB/s"
        )
        return [nodes.Text(words)], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the role."""
    app.add_directive("if-record", IfRecord)
    app.add_directive("bench-table", BenchTable)
    app.add_directive("bench-bars", BenchBars)
    app.add_role("bench", BenchFigure())
    app.add_role("weight-traffic", WeightTraffic())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
