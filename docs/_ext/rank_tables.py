"""``rank-decode``: what a step of several ranks takes by each path, from ``llm-numba bench ranks``.

::

    ```{rank-decode} llama-3-8b_tp2-pp1
    ```

The argument is how the names of records go on behind the machine: model and split. There is a row
for each record of them, and each number of sequences, the shortest first.
"""

from typing import Any

from bench_records import figure, find, on_gpu
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class RankDecode(SphinxDirective):
    """A table of paths, with graphs and without."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        records = find(self.env, f"ranks_*_{self.arguments[0]}_*.json")
        lines = [
            "| path | sequences | graphs a step | ms a step | 8 of 10 steps | tokens/s |",
            "| --- | --: | --: | --: | --: | --: |",
        ]
        lines += [row for _, row in sorted(each for record in records for each in rows(record))]
        for record in records:
            lines += ["", "{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


def rows(record: dict[str, Any]) -> list[tuple[float, str]]:
    """Return a record's steps that decode, each a row of the table behind its time."""
    found = []
    for each in record["results"]:
        if each["name"].startswith("decode/"):
            shape, median = each["shape"], each["median"]
            graphs = shape["pieces"] or "none"
            spread = f"{figure(each['p10'])} to {figure(each['p90'])}"
            cells = (
                f"`{shape['path']}`", shape["batch"], graphs, figure(median), spread,
                figure(shape["tokens_per_second"]),
            )  # fmt: skip
            found.append((median, f"| {' | '.join(map(str, cells))} |"))
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("rank-decode", RankDecode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
