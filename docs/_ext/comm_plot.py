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

from html import escape
from typing import Any, ClassVar

from bench_records import load, on_gpu, provenance
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench.comm_picture import Curves, curves_of, describe, draw, sizes


class CommPlot(SphinxDirective):
    """A line for each operation, or for each path."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Draw, and say what made the record."""
        record, curves = _read(self.env, *self.arguments)
        what = self.arguments[1]
        svg = draw(curves, what).svg(escape(describe(curves, what), quote=True))
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
        return self.parse_text_to_nodes("\n".join(sizes(curves, rate).markdown()))


def _read(
    env: BuildEnvironment, pattern: str, what: str, rate: bool = False
) -> tuple[dict[str, Any], Curves]:
    """Return the newest record, and µs by size, or GB/s from 64 KiB on; of a path or operation."""
    record = load(env, pattern)
    curves = curves_of(record, what, rate)
    if not curves:
        raise ExtensionError(f"{record['file']} has nothing of {what}")
    return record, curves


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("comm-plot", CommPlot)
    app.add_directive("comm-table", CommTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
