"""``split-table``: a model on one rank and on several, from ``llm-numba bench ranks``.

::

    ```{split-table} ranks_*nvidia*_llama-3-8b_*.json
    ```

There is a row for each machine, split and set of switches: what carried arrays, and what was timed,
with how many times as fast that is as one rank there. Of several records of one row, that with the
shortest steps is shown. Where there are none yet, it says which command writes them.
"""

from bench_records import find, origin
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench.split_table import fastest, splits


class SplitTable(SphinxDirective):
    """A row for each split, a column for what was timed, and one for the gain."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        records = fastest(find(self.env, self.arguments[0]))
        if not records:
            return self.parse_text_to_nodes("*Not measured yet: `llm-numba bench multi` does.*")
        below = ["", "{.provenance}", *map(origin, records)]
        return self.parse_text_to_nodes("\n".join([*splits(records).markdown(), *below]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("split-table", SplitTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
