"""Tables and pictures of products, from what ``llm-numba bench gemm`` wrote.

::

    ```{gemm-goals}
    ```
    ```{gemm-table} products small
    ```
    ```{gemm-picture} shares
    :records: gemm_*h200*.json
    The caption.
    ```

Tables are ``products`` of a part, ``steps``, ``epilogues`` and ``pipeline``, and ``stalls`` of what
``llm-numba bench stalls`` wrote; pictures are ``shares``, ``roofline`` and ``pipeline``. All are of
an H100, if no other record is named.
"""

from collections.abc import Callable
from html import escape
from typing import Any, ClassVar

from bench_records import find, load, on_gpu
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench import gemm_pictures, gemm_tables, stalls
from llm_numba.bench.report.page import Picture
from llm_numba.bench.tables import Table, by_name, left_out

RECORDS = "gemm_*h100*.json"  # the goals are of that GPU
Record = dict[str, Any]


class GemmGoals(SphinxDirective):
    """What is to be reached, also where there is no record yet; and what the run left out."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        if find(self.env, RECORDS):
            record = load(self.env, RECORDS)
            below = [left_out(record), "", "{.provenance}", on_gpu(record)]
        else:
            record, below = {"results": []}, ["*Not measured yet: `llm-numba bench gemm` does.*"]
        lines = gemm_tables.goals(by_name(record)).markdown()
        return self.parse_text_to_nodes("\n".join([*lines, "", *below]))


class GemmTable(SphinxDirective):
    """A table, and what made it."""

    required_arguments = 1
    optional_arguments = 1
    option_spec: ClassVar = {"records": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, self.options.get("records", RECORDS))
        name, *part = self.arguments
        lines = _TABLES[name](record, *part).markdown()
        if not lines:
            return self.parse_text_to_nodes(f"*Not in the record.* {left_out(record, tuple(part))}")
        below = ["", "{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join([*lines, *below]))


class GemmPicture(SphinxDirective):
    """A picture; its caption is the content."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"records": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        record = load(self.env, self.options.get("records", RECORDS))
        picture = _PICTURES[self.arguments[0]](record)
        caption = f"<figcaption>{escape(' '.join(self.content))}</figcaption>"
        html = f'<figure class="drawing"><div>{picture.svg}</div>{caption}</figure>'
        return [nodes.raw("", html, format="html")]


def _gpu(record: Record) -> tuple[str, int]:
    capability = record["environment"]["gpus"][0]["compute_capability"]
    return capability, record["settings"]["gpu"]["multiprocessors"]


def _products(record: Record, part: str) -> Table:
    return gemm_tables.products(by_name(record), part, *_gpu(record))


def _shares(record: Record) -> Picture:
    return gemm_pictures.shares(by_name(record))


def _roofline(record: Record) -> Picture:
    results = by_name(record)
    return gemm_pictures.under_the_roof(results, results["read"]["median"], *_gpu(record))


_TABLES: dict[str, Callable[..., Table]] = {
    "products": _products,
    "steps": lambda record: gemm_tables.steps(by_name(record)),
    "pipeline": lambda record: gemm_tables.pipeline(by_name(record)),
    "epilogues": lambda record: gemm_tables.epilogues(by_name(record)),
    "stalls": lambda record: stalls.table(record["results"]),
}
_PICTURES: dict[str, Callable[[Record], Picture]] = {
    "shares": _shares,
    "roofline": _roofline,
    "pipeline": lambda record: gemm_pictures.pipeline(record["pipeline"]),
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("gemm-goals", GemmGoals)
    app.add_directive("gemm-table", GemmTable)
    app.add_directive("gemm-picture", GemmPicture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
