"""What a station of the walkthrough costs, and what it took on a GPU.

::

    ```{station-cost} linear qkv, rope_and_write_kv
    ```
    ```{station-measured} linear qkv, rope_and_write_kv
    ```
    ```{step-cost} llama-3-8b
    :batches: 1, 8, 32
    ```
    ```{split-cost} llama-3-70b
    :splits: 1x1, 4x1, 4x2
    ```

The first two name operations of a step, as a profile does. The first is arithmetic on the shapes of
the bundled model and of an 8B, for one token and for a prompt. The second looks them up in the
profiles of ``docs/results``. The third adds up whole decoding steps; the fourth plans P x R ranks.
"""

from typing import Any, ClassVar

from bench_records import figure, load, on_gpu
from docutils import nodes
from docutils.parsers.rst import directives
from plan_tables import planned
from profile_pages import size
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from station_costs import OPERATIONS, Asked, cost_of_step

from llm_numba.bench.profile_picture import duration
from llm_numba.bench.profile_report import from_json, rows_of
from llm_numba.bench.profile_traffic import StepShape, Traffic
from llm_numba.errors import EngineError
from llm_numba.models import load_config, resolve_model
from llm_numba.planner import GPUS

_CARD = GPUS["h100"]
_CEILING_NAMES = ("memory", "arithmetic")
_SPACE = "\N{NO-BREAK SPACE}"
_RIDGE = _CARD.tensor_flops / _CARD.bytes_per_second
_CEILINGS = (
    f"The ceilings are of the H100's data sheet: {_CARD.bytes_per_second / 1e12:.2f} TB/s of "
    f"memory and {_CARD.tensor_flops / 1e12:.0f} TFLOP/s of 16-bit products on tensor cores. They "
    f"meet at {_RIDGE:.0f} FLOPs a byte. Ordinary units make {_CARD.flops / 1e12:.0f} TFLOP/s of "
    f"float32, and would meet memory at {_CARD.flops / _CARD.bytes_per_second:.0f}."
)
_ONE_TOKEN, _PROMPT = StepShape(1, 1, 512), StepShape(1, 2048, 2048)
_ASKED = (
    ("storyteller, a token", "storyteller", _ONE_TOKEN),
    ("8B, a token", "random:llama-3-8b", _ONE_TOKEN),
    ("8B, a prompt", "random:llama-3-8b", _PROMPT),
)
_PROFILES = (
    ("8B, a token", "profile_*_llama-3-8b.json", "decode/batch=1/context=512"),
    ("1B, a token", "profile_*_llama-3.2-1b.json", "decode/batch=1/context=512"),
    ("8B, a prompt", "profile_*_llama-3-8b.json", "prefill/batch=1/context=2048"),
)
# What readers call it.
_NAMES = {
    "embedding embed_tokens": "embedding",
    "rms_norm": "norm, if alone",
    "linear qkv": "q, k, v",
    "rope_and_write_kv": "RoPE, KV write",
    "paged_attention": "attention",
    "linear out": "output product",
    "linear gate_up": "gate and up",
    "linear down": "down",
    "linear lm_head": "LM head",
    "argmax": "likeliest token",
    "rope_and_decode_attention": "RoPE, KV write, attention",
}
# One launch does both where a sequence decodes alone.
_FUSED = dict.fromkeys(("rope_and_write_kv", "paged_attention"), "rope_and_decode_attention")


class _OfStation(SphinxDirective):
    """A directive about some operations."""

    required_arguments = 1
    final_argument_whitespace = True

    def labels(self) -> list[str]:
        """Return the operations that the page names."""
        labels = [label.strip() for label in self.arguments[0].split(",")]
        if unknown := set(labels) - OPERATIONS.keys():
            raise ExtensionError(f"{self.env.docname}: no operation {', '.join(unknown)}")
        return labels


class StationCost(_OfStation):
    """Bytes, operations, and the time that the nearer ceiling allows."""

    def run(self) -> list[nodes.Node]:
        """Work it out."""
        rows = []
        for label in self.labels():
            for title, model, shape in _ASKED:
                asked = Asked(load_config(resolve_model(model)), shape)
                traffic, flops = cost_of_step(label, asked)
                seconds = _at_ceilings(traffic, flops)
                rows.append([
                    _NAMES[label], title, size(traffic.num_bytes), amount(flops),
                    figure(flops / traffic.num_bytes), _CEILING_NAMES[_larger(seconds)],
                    duration(max(seconds)) if max(seconds) > 1e-8 else "< 0.01 µs",
                ])  # fmt: skip
        numbers = ["bytes", "FLOPs", "FLOPs a byte", "ceiling", "at best"]
        lines = [
            *_table(["operation", "of"], numbers, _in_order(rows)),
            "",
            "{.provenance}",
            "*8B* has the shape of Llama 3 8B. All layers of one step; *a token* stands behind 511 "
            "others, *a prompt* has 2,048. "
            f"Numbers of 16 bits. Computed from the shapes while this page was built. {_CEILINGS}",
        ]  # fmt: skip
        return self.parse_text_to_nodes("\n".join(lines))


class StationMeasured(_OfStation):
    """The time of the operations in a step on a GPU, and how near they came to a copy."""

    def run(self) -> list[nodes.Node]:
        """Look it up in the profiles."""
        rows, made_by = [], {}
        for title, pattern, name in _PROFILES:
            record = load(self.env, pattern)
            made_by[record["file"]] = on_gpu(record)
            entry = next(each for each in record["results"] if each["name"] == name)
            profile = from_json(entry)
            found = {row.label: row for row in rows_of(profile)}
            whole = sum(row.seconds for row in found.values())
            labels = [each if each in found else _FUSED[each] for each in self.labels()]
            for label in dict.fromkeys(labels):
                row = found[label]
                copied = row.bytes_per_second / record["settings"]["bytes_per_second"]
                reached = f"{100 * copied:.0f} % of the copy"
                if row.flops / row.traffic.num_bytes > _RIDGE:
                    reached = f"{row.flops_per_second / 1e12:.1f} TFLOP/s"
                rows.append([
                    _NAMES[label], title, ", ".join(f"`{kernel}`" for kernel in row.kernels),
                    duration(row.seconds), f"{100 * row.seconds / whole:.1f} %", reached,
                ])  # fmt: skip
        headings = ["all layers", "of a step's kernels", "reached"]
        lines = [
            *_table(["operation", "of", "kernels"], headings, _in_order(rows)),
            "",
            "{.provenance}",
            "\n\n{.provenance}\n".join(made_by.values()),
        ]
        return self.parse_text_to_nodes("\n".join(lines))


class StepCost(SphinxDirective):
    """A decoding step of several batches: what it reads, and what it takes at best."""

    required_arguments = 1
    option_spec: ClassVar = {"batches": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Add up all operations, but for the norm that is fused."""
        config = load_config(resolve_model(f"random:{self.arguments[0]}"))
        rows = []
        for batch in map(int, self.options["batches"].split(",")):
            asked = Asked(config, StepShape(batch, 1, 512))
            costs = [cost_of_step(label, asked) for label in OPERATIONS if label != "rms_norm"]
            traffic = sum((each.traffic for each in costs), Traffic())
            ceilings = [_at_ceilings(*each) for each in costs]
            best = sum(map(max, ceilings))
            by_arithmetic = sum(pair[1] for pair in ceilings if _larger(pair))
            rows.append([
                f"{batch}", size(traffic.weights), size(traffic.kv), duration(best),
                f"{100 * by_arithmetic / best:.0f} %", figure(batch / best),
            ])  # fmt: skip
        numbers = ["weights", "keys, values", "at best", "of it arithmetic", "tokens/s"]
        lines = [*_table(["batch"], numbers, rows), "", "{.provenance}",
                 f"{self.arguments[0]}, context 512, numbers of 16 bits. Each operation at its own "
                 f"ceiling, one after the other. {_CEILINGS}"]  # fmt: skip
        return self.parse_text_to_nodes("\n".join(lines))


class SplitCost(SphinxDirective):
    """A model on P tensor ranks times R stages, as the planner sees it."""

    required_arguments = 1
    option_spec: ClassVar = {"splits": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Plan each split; one that does not fit has no time."""
        rows = []
        for split in self.options["splits"].split(","):
            tp, pp = map(int, split.split("x"))
            title = [f"{tp * pp}", f"{tp}{_SPACE}x{_SPACE}{pp}"]
            asked = {"tp": tp, "pp": pp, "batch": 8, "context": 4096}
            try:
                plan = planned(self.arguments[0], _CARD.name, **asked)
            except EngineError:
                rows.append([*title, "does not fit", "", "", ""])
                continue
            rows.append([
                *title, f"{plan.fullest.taken / 2**30:.1f} GiB", duration(plan.prompt.seconds),
                duration(plan.interleaved.seconds),
                figure(plan.tokens_per_second(plan.interleaved)),
            ])  # fmt: skip
        numbers = ["fullest GPU", "first token", "a token", "tokens/s of all"]
        return self.parse_text_to_nodes(
            "\n".join(_table(["GPUs", f"P{_SPACE}x{_SPACE}R"], numbers, rows))
        )


def _at_ceilings(traffic: Traffic, flops: int) -> tuple[float, float]:
    """Return the seconds that memory and arithmetic take at least."""
    return traffic.num_bytes / _CARD.bytes_per_second, flops / _CARD.tensor_flops


def _larger(pair: tuple[float, float]) -> int:
    return int(pair[1] > pair[0])


def _table(words: list[str], numbers: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table whose first columns are of words."""
    marks = ["---"] * len(words) + ["--:"] * len(numbers)
    return [f"| {' | '.join(each)} |" for each in ([*words, *numbers], marks, *rows)]


def _in_order(rows: list[list[str]]) -> list[list[str]]:
    """Put all rows of an operation together."""
    return sorted(rows, key=lambda row: list(_NAMES.values()).index(row[0]))


def amount(count: float) -> str:
    """Return a count with three digits, in the unit that suits it."""
    for unit, each in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= each:
            return f"{count / each:.3g} {unit}"
    return f"{count:.0f}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("station-cost", StationCost)
    app.add_directive("station-measured", StationMeasured)
    app.add_directive("step-cost", StepCost)
    app.add_directive("split-cost", SplitCost)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
