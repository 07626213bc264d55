"""``split-table``: a model on one rank and on several, from ``llm-numba bench ranks``.

::

    ```{split-table} ranks_*nvidia*_llama-3-8b_*.json
    ```

There is a row for each machine and split: what carried arrays, and what was timed, with how many
times as fast that is as one rank there. Of several records of a split, that with the shortest steps
is shown. Where there are none yet, it says which command writes them.
"""

from collections.abc import Mapping
from typing import Any

from bench_records import figure, find, origin
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# What is timed, by how names of results begin.
_TIMED = {
    "decode": "a step of {batch}, ms",
    "prefill": "a prompt of {tokens:,}, ms",
    "load": "{requests} requests, tokens/s",
}

Row = tuple[dict[str, Any], dict[str, float]]  # a record, and its medians by heading


class SplitTable(SphinxDirective):
    """A row for each split, a column for what was timed, and one for the gain."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        records = find(self.env, self.arguments[0])
        if not records:
            return self.parse_text_to_nodes("*Not measured yet: `llm-numba bench multi` does.*")
        return self.parse_text_to_nodes("\n".join(table(records)))


def table(records: list[dict[str, Any]]) -> list[str]:
    """Make the table, and say beneath what made its rows.

    Parameters
    ----------
    records : list of dict
    """
    rows: list[Row] = []
    for record, medians in sorted(((each, _medians(each)) for each in records), key=_order):
        if not rows or _split(rows[-1][0]) != _split(record):
            rows.append((record, medians))
    headings = list(dict.fromkeys(heading for _, medians in rows for heading in medians))
    titles = ["machine", "split", "arrays by"]
    for heading in headings:
        titles += [heading, "times one"]
    lines = [f"| {' | '.join(titles)} |", f"| --- | --- | --- {'| --: ' * (len(titles) - 3)}|"]
    for record, medians in rows:
        alone = next((found for each, found in rows if _is_alone(each, record)), {})
        settings = record["settings"]
        cells = [_machine(record), f"tp={settings['tp']}, pp={settings['pp']}", _path(record)]
        for heading in headings:
            cells += _cells(heading, medians, alone)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "{.provenance}", *(origin(record) for record, _ in rows)]


def _medians(record: dict[str, Any]) -> dict[str, float]:
    found = {}
    for result in record["results"]:
        kind = result["name"].partition("/")[0]
        if kind in _TIMED:
            found[_TIMED[kind].format(**result["shape"])] = result["median"]
    return found


def _cells(heading: str, medians: Mapping[str, float], alone: Mapping[str, float]) -> list[str]:
    """Return a time, and how many times as fast it is as on one rank."""
    if heading not in medians:
        return ["-", "-"]
    if heading not in alone:
        return [figure(medians[heading]), "-"]
    gain = medians[heading] / alone[heading]
    return [figure(medians[heading]), f"{gain if heading.endswith('tokens/s') else 1 / gain:.2f}"]


def _machine(record: dict[str, Any]) -> str:
    environment = record["environment"]
    if record["settings"]["device"] == "cuda":
        return environment["gpus"][0]["name"].removeprefix("NVIDIA ")
    return f"{environment['device']['cores']} cores"


def _path(record: dict[str, Any]) -> str:
    """Return what carried arrays."""
    return "" if _ranks(record) == 1 else f"`{record['results'][0]['shape']['path']}`"


def _split(record: dict[str, Any]) -> tuple[str, int, int]:
    return _machine(record), record["settings"]["tp"], record["settings"]["pp"]


def _ranks(record: dict[str, Any]) -> int:
    return record["settings"]["tp"] * record["settings"]["pp"]


def _is_alone(record: dict[str, Any], like: dict[str, Any]) -> bool:
    """Whether a record is of one rank, on the machine of another record."""
    return _ranks(record) == 1 and _machine(record) == _machine(like)


def _order(row: Row) -> tuple[Any, ...]:
    record, medians = row
    machine, tp, pp = _split(record)
    steps = [median for heading, median in medians.items() if heading.startswith("a step")]
    return machine, tp * pp, pp, min(steps, default=float("inf"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("split-table", SplitTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
