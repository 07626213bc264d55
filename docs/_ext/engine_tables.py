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
    ```{engine-compared} llama-3-8b
    ```

Where there is no record yet, each says which command writes it. Beneath a table stands what its
run left out, and why. The last holds the newest record against that in ``docs/results/earlier``.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from bench_records import find, load, on_gpu
from docutils import nodes
from figure_directive import figure_nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench import engine_tables as tables
from llm_numba.bench.tables import Results, Table, by_name, left_out
from llm_numba.models import bundled_models


class EngineTable(SphinxDirective):
    """A table of one model's record, made by a function of the record's results."""

    required_arguments = 1
    make: ClassVar[Callable[[Results], Table]]
    # How names begin of what should be in it.
    prefixes: ClassVar[tuple[str, ...]]

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        model = self.arguments[0]
        pattern = f"engine_*_{model}.json"
        if not find(self.env, pattern):
            return self.parse_text_to_nodes(f"*Not measured yet: `{self.command(model)}` does.*")
        record = load(self.env, pattern)
        results = by_name(record)
        lines = type(self).make(results).markdown()
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


class Classic(EngineTable):
    """The classic table."""

    make = tables.classic
    prefixes = ("first_token", "peer")


class Decode(EngineTable):
    """Every decode point, with a curve along the batches and one along the contexts."""

    make = tables.decode
    prefixes = ("decode",)

    def pictures(self, results: Results) -> list[nodes.Node]:
        """Draw the median of a step, and how far the 99th percentile is above it."""
        drawn: list[nodes.Node] = []
        for picture, alt, words in tables.curves(results):
            drawn += figure_nodes(picture, alt, words)
        return drawn


class Fusion(EngineTable):
    """The cumulative table of fusions."""

    make = tables.fusion
    prefixes = ("fusion",)


class Serving(EngineTable):
    """Many requests at once."""

    make = tables.serving
    prefixes = ("serving",)


class Persistent(EngineTable):
    """One kernel for a step against a graph of kernels."""

    make = tables.persistent
    prefixes = ("persistent",)


class Compared(EngineTable):
    """An earlier record and the newest, side by side, with what made each."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        model = self.arguments[0]
        pattern = f"engine_*_{model}.json"
        before, after = load(self.env, f"earlier/{pattern}"), load(self.env, pattern)
        if after["date"] <= before["date"]:
            return self.parse_text_to_nodes(f"*Not measured yet: `{self.command(model)}` does.*")
        lines = tables.compared(by_name(before), by_name(after)).markdown()
        for name, record in (("Before", before), ("After", after)):
            lines += ["", "{.provenance}", f"{name}: {on_gpu(record)}"]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for each in (Classic, Decode, Fusion, Serving, Persistent, Compared):
        app.add_directive(f"engine-{each.__name__.lower()}", each)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
