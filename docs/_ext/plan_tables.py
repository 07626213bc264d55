"""Tables and pictures of the page on planning, worked out while the site is built.

::

    ```{plan-laws}
    ```
    ```{plan-example}
    ```
    ```{plan-hardware}
    ```
    ```{plan-links}
    ```
    ```{plan-comparisons}
    ```
    ```{plan-presets}
    ```
    ```{plan-claims}
    ```
    ```{plan-claim} size of 70b
    ```
    ```{plan-command} --model llama-3-70b --tp 8
    ```
    ```{plan-sweep} llama-3-70b h100 4096
    :alt: what a reader who cannot see it should know
    ```

All but the command's text are Markdown tables. Comparisons are with every record of an
engine, on one rank or several.
"""

import base64
import json
import shlex
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from bench_records import RESULTS, figure
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.models import load_config
from llm_numba.models.random import resolve_shape
from llm_numba.parallel.measured import packaged_tables
from llm_numba.planner import GPUS, LINKS, Plan, Question, find_gpu, make_plan, packaged_table
from llm_numba.planner.check import Comparison, compare, is_comparable
from llm_numba.planner.claims import answer_claim, answer_claims
from llm_numba.planner.collectives import LinkTable, all_reduce
from llm_numba.planner.picture import draw
from llm_numba.planner.presets import PRESETS
from llm_numba.planner.steps import layer_weights
from llm_numba.planner.sweep import assumptions, frontier, sweep

_WIDTH = 88


def rows(headings: str, lines: list[list[str]]) -> list[str]:
    """Return a Markdown table; a heading that ends with ":" is of numbers."""
    names = headings.split(" | ")
    marks = ["--:" if name.endswith(":") else "---" for name in names]
    titles = [name.removesuffix(":") for name in names]
    return [f"| {' | '.join(each)} |" for each in (titles, marks, *lines)]


def laws() -> list[str]:
    """Show what the kernel table says, and of how many times."""
    table = packaged_table()
    lines = [
        [
            f"product of {each.rows} row{'s' * (each.rows > 1)}, {each.units} cores",
            f"{1e6 * each.law.constant:.1f} µs",
            f"{1e12 * each.law.slope:.3g} ps a weight",
            *_fit(each.law),
        ]
        for each in table.products
    ]
    constant = "{:.1f} µs"
    for name, law, unit in (
        ("attention, decoding", table.decode_attention, "TB/s"),
        ("attention, decoding, short contexts", table.joined_attention, "TB/s"),
        ("RoPE, KV write, attention, a sequence alone", table.turning_attention, "TB/s"),
        ("attention, prompt", table.prompt_attention, "TFLOP/s"),
    ):
        rate = f"{1 / law.slope / 1e12:.3g} {unit}"
        lines.append([name, constant.format(1e6 * law.constant), rate, *_fit(law)])
    copy = f"{table.copy_bytes_per_second / 1e12:.2f} TB/s"
    for name, law in table.short.items():
        lines.append([f"`{name}`", constant.format(1e6 * law.constant), copy, *_fit(law)])
    made = ", ".join(
        f"`{each['file']}` ({each['date'][:10]}, commit `{each['commit'][:12]}`)"
        for each in table.sources
    )
    headings = "kernel | constant: | then: | times: | worst fit:"
    return [*rows(headings, lines), "", "{.provenance}", f"{table.gpu}. Records: {made}."]


def _fit(law: Any) -> tuple[str, str]:
    return str(len(law.times)), f"{law.worst_fit:.0%}" if len(law.times) > 1 else "-"


def example() -> list[str]:
    """Add up a token of 8B on one GPU, line by line."""
    table, plan = packaged_table(), planned("llama-3-8b", "h100", context=512)
    config, row = plan.question.config, packaged_table().product(1)
    L, D = config.num_layers, config.head_dim
    weights = zip(
        ("Q, K and V", "output", "gate and up", "down"), layer_weights(config), strict=True
    )
    kv = 512 * 2 * config.num_kv_heads * D * 2
    head = config.vocab_size * config.hidden_size
    short = table.short
    parts = [
        *((f"product: {name}", f"{count / 1e6:,.1f} M weights", L, row.seconds(count))
          for name, count in weights),
        ("RoPE, KV write and attention", f"{kv / 1e6:.2f} MB", L,
         table.turning_attention.seconds(kv)),
        ("inputs", "", 1, short["fill_in_tokens"].seconds(4)),
        ("embedding", "one row", 1, short["embedding"].seconds(4 * config.hidden_size)),
        ("product: LM head", f"{head / 1e6:,.1f} M weights", 1, row.seconds(head)),
        ("likeliest token", f"{config.vocab_size:,} logits", 1,
         short["argmax"].seconds(4 * config.vocab_size)),
    ]  # fmt: skip
    lines = [
        [name, amount, f"{1e6 * seconds:.1f} µs", str(times), f"{1e6 * times * seconds:,.0f} µs"]
        for name, amount, times, seconds in parts
    ]
    total = sum(times * seconds for *_, times, seconds in parts)
    if not np.isclose(total, plan.drained.seconds):
        raise ValueError("the example does not add up to the plan")
    lines.append(["**a token**", "", "", "", f"**{1e6 * total:,.0f} µs**"])
    return rows("kernel | x | c + s x: | times: | together:", lines)


def hardware() -> list[str]:
    """Show GPUs and links with where their figures are from."""
    cards = [
        [
            f"`{gpu.name}`",
            f"{gpu.memory_bytes / 1e9:.1f} GB",
            f"{gpu.bytes_per_second / 1e12:.2f} TB/s",
            f"{gpu.flops / 1e12:.1f} TFLOP/s",
            f"{gpu.tensor_flops / 1e12:.0f} TFLOP/s",
            f"`{gpu.inside}`",
            f"`{gpu.outside}`",
            gpu.source,
        ]
        for gpu in GPUS.values()
    ]
    links = [
        [f"`{link.name}`", f"{link.bytes_per_second / 1e9:g} GB/s",
         f"{1e6 * link.latency:g} µs", link.source]
        for link in LINKS.values()
    ]  # fmt: skip
    of_cards = (
        "GPU | memory: | its speed: | float32: | tensor cores: | in a host | between hosts | source"
    )
    of_links = "link | one direction: | a message: | source of the speed"
    return [*rows(of_cards, cards), "", *rows(of_links, links)]


def links() -> list[str]:
    """Show what was measured of links, beside what data sheets promise."""
    lines, records = [], []
    for table in packaged_tables():
        kind, fastest = table.kind, LinkTable.from_times(table)
        gpu = next(gpu for gpu in GPUS.values() if gpu.driver_name == kind.gpu)
        records.append(f"`{table.source['file']}` (commit `{table.source['commit'][:12]}`)")
        for size in (1 << 13, 1 << 16, 1 << 20, 1 << 24):
            promised = all_reduce(size, kind.ranks, LINKS[gpu.inside])
            found = fastest.seconds("all_reduce", kind.ranks, size)
            lines.append([
                f"{kind.ranks} x {kind.gpu}, {kind.links}", f"{size:,}",
                *(f"{figure(1e6 * seconds)} µs" for seconds in (found, promised)),
            ])  # fmt: skip
    if not lines:
        return ["No link was measured yet."]
    headings = "all-reduce on | bytes: | measured: | by data sheet:"
    return [*rows(headings, lines), "", "{.provenance}", f"Records: {', '.join(records)}."]


def comparisons() -> list[str]:
    """Hold the plan against every measured step of every engine record."""
    table, found = packaged_table(), []
    for path in _engines():
        record = json.loads(path.read_text())
        if is_comparable(record):
            found += compare(record, path.name, table)
    numbers = {reason: i for i, reason in enumerate(_reasons(found), start=1)}
    lines = [
        [
            _model(each),
            each.what + (" °" if each.same_step else ""),
            f"{each.measured:.4g} {each.unit}",
            f"{each.planned:.4g} {each.unit}",
            f"{100 * each.off:+.1f} %" if each.holds else f"**{100 * each.off:+.1f} %**",
            f"({numbers[each.reason]})" if each.reason else "",
        ]
        for each in found
    ]
    held = sum(each.holds for each in found)
    notes = [f"({number}) {reason[0].upper()}{reason[1:]}.\n" for reason, number in numbers.items()]
    headings = "model | what | measured: | planned: | off: | why"
    return [
        f"{held} of {len(found)} are within 15 %.",
        "",
        *rows(headings, lines),
        "",
        "° Times of kernels of this very step are in the table, from a profile.",
        "",
        *notes,
    ]


def _engines() -> list[Path]:
    return sorted([*RESULTS.glob("engine_*.json"), *RESULTS.glob("ranks_*.json")])


def _reasons(found: list[Comparison]) -> Iterator[str]:
    yield from dict.fromkeys(each.reason for each in found if each.reason)


def _model(found: Comparison) -> str:
    _, gpu, *words = found.record.removesuffix(".json").split("_")
    return f"{' '.join(words)}, {gpu.split('-')[1].upper()}"


def presets() -> list[str]:
    """Plan the well-known cases."""
    lines = []
    for name, preset in PRESETS.items():
        asked = dict(preset.asked)
        plan = planned(asked.pop("model"), asked.pop("gpu"), **asked)
        rounds = plan.interleaved
        lines.append([
            f"`{name}`",
            preset.what,
            f"{plan.fullest.taken / 2**30:.1f} GiB",
            f"{figure(1e3 * plan.prompt.seconds)} ms",
            f"{figure(1e3 * rounds.seconds)} ms",
            figure(plan.tokens_per_second(rounds)),
        ])  # fmt: skip
    headings = "preset | what | fullest GPU: | first token: | a token: | tokens/s:"
    return rows(headings, lines)


def claims() -> list[str]:
    """Answer what is often said."""
    lines = [
        [each.words, each.found, f"**{each.verdict}**"] for each in answer_claims(packaged_table())
    ]
    return rows("it is said | planned | verdict", lines)


def planned(model: str, gpu: str, **asked: Any) -> Plan:
    """Plan a shape in bfloat16."""
    return make_plan(question(model, gpu, **asked), packaged_table())


def question(model: str, gpu: str, **asked: Any) -> Question:
    """Ask about a shape in bfloat16."""
    config = load_config(resolve_shape(model))
    return Question(config, np.dtype(ml_dtypes.bfloat16), find_gpu(gpu), **asked)


class PlanTable(SphinxDirective):
    """A table, made by a function."""

    make: ClassVar[Callable[[], list[str]]]

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        for path in _engines():
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(type(self).make()))


class PlanClaim(SphinxDirective):
    """The answer to one claim, by its name in the planner."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Work it out."""
        return self.parse_text_to_nodes(answer_claim(self.arguments[0], packaged_table()).found)


class PlanCommand(SphinxDirective):
    """What ``llm-numba plan`` prints with some options."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Run the command in this process."""
        from typer.testing import CliRunner

        from llm_numba.cli.app import app

        words = ["plan", *shlex.split(self.arguments[0])]
        size = {"COLUMNS": str(_WIDTH), "TERM": "dumb"}
        result = CliRunner().invoke(app, words, env=size, prog_name="llm-numba")
        if result.exit_code:
            raise self.error(result.output)
        lines = [f"$ llm-numba {' '.join(words)}", *map(str.rstrip, result.stdout.splitlines())]
        text = "\n".join(lines)
        return [nodes.literal_block(text, text, language="console")]


class PlanSweep(SphinxDirective):
    """The picture of a sweep, and what it assumes: ``MODEL GPU CONTEXT``."""

    required_arguments = 3
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Draw it as ``llm-numba plan --sweep --svg`` does."""
        model, gpu, context = self.arguments
        asked, table = question(model, gpu, context=int(context)), packaged_table()
        points = list(sweep(asked, table))
        svg = draw(points, f"{model} on {asked.gpu.title}, context {asked.context:,}")
        # As an image of its own: the page's styles are not for it.
        data = base64.b64encode(svg.encode()).decode()
        alt = escape(self.options["alt"], quote=True)
        html = f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}"></figure>'
        assumed = " ".join(assumptions(asked, table, frontier(points)))
        below = self.parse_text_to_nodes(f"{{.provenance}}\n{assumed}")
        return [nodes.raw("", html, format="html"), *below]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for make in (laws, example, hardware, links, comparisons, presets, claims):
        directive = type(f"Plan{make.__name__.title()}", (PlanTable,), {"make": staticmethod(make)})
        app.add_directive(f"plan-{make.__name__}", directive)
    app.add_directive("plan-claim", PlanClaim)
    app.add_directive("plan-command", PlanCommand)
    app.add_directive("plan-sweep", PlanSweep)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
