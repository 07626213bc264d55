"""``recall-records``: what ``llm-numba eval`` found, one row a device and number format."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.cli.options import EngineOptions, ModelOptions
from llm_numba.train.recall import RecallResult, paired_difference

RESULTS = Path(__file__).parents[1] / "results"
REFERENCE = RESULTS / "storyteller_recall_cpu.json"
_DEFAULTS = {each.name: each.default for each in (*fields(EngineOptions), *fields(ModelOptions))}
_WORDS = {
    "enforce_eager": "no graphs",
    "persistent": "one kernel a step",
    "batch_invariant": "batch-invariant",
    "enable_prefix_caching": "no prefix cache",
    "max_num_seqs": "{:,} at a time",
    "max_num_batched_tokens": "{:,} tokens a step",
    "num_blocks": "{:,} blocks",
    "block_size": "{:,} tokens a block",
    "run_on": "writing on",
}


class RecallRecords(SphinxDirective):
    """Each record beside the CPU's in float32, story by story."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        reference = RecallResult.from_json(json.loads(REFERENCE.read_text()))
        lines = [
            "| where | format | engine | right | accuracy | points more | right there only "
            "| here only | in other words |",
            "| --- | --- | --- | --: | --: | --: | --: | --: | --: |",
        ]
        for path in sorted(RESULTS.glob("storyteller_recall_*.json")):
            self.env.note_dependency(str(path))
            record = json.loads(path.read_text())
            lines.append(_row(record, reference, is_reference=path == REFERENCE))
        return self.parse_text_to_nodes("\n".join(lines))


def _row(record: dict[str, Any], reference: RecallResult, is_reference: bool) -> str:
    environment, settings = record["environment"], record["settings"]
    on_gpu = settings["device"] == "cuda"
    device = environment["gpus"][0] if on_gpu else environment["device"]
    result = RecallResult.from_json(record)
    cells = [
        device["name"],
        settings["dtype"],
        _engine(record),
        f"{sum(result.correct):,} of {result.num_stories:,}",
        f"{result.accuracy:.2%}",
    ]
    if is_reference:
        return f"| {' | '.join([*cells, *[''] * 4])} |"
    difference = paired_difference(reference, result)
    cells += [
        f"{difference.points:+.2f}",
        f"{difference.only_first:,}",
        f"{difference.only_second:,}",
        f"{difference.other_words:,}",
    ]
    return f"| {' | '.join(cells)} |"


def _engine(record: dict[str, Any]) -> str:
    """Say what of the engine was set otherwise than by default."""
    settings = record["settings"]
    chosen = {
        name: value
        for name, value in settings.get("engine", {}).items()
        if value is not None and value != _DEFAULTS.get(name)
    }
    if settings.get("run_on"):
        chosen["run_on"] = True
    ranks = [(settings.get("tp", 1), "tensor ranks"), (settings.get("pp", 1), "stages")]
    said = [f"{number} {what}" for number, what in ranks if number > 1]
    said += [_WORDS[name].format(chosen.pop(name)) for name in _WORDS if name in chosen]
    # One that this table has no words for must not look like the default.
    said += [f"`{name}={value}`" for name, value in chosen.items()]
    if stopped := record.get("preemptions"):
        said.append(f"{stopped:,} pre-emptions")
    return ", ".join(said)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("recall-records", RecallRecords)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
