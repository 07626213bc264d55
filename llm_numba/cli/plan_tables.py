"""What ``llm-numba plan`` prints."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from llm_numba.cli.console import notes, styled, tables
from llm_numba.cli.models import size

if TYPE_CHECKING:
    from rich.table import Table

    from llm_numba.planner import Plan, RankMemory, Rounds
    from llm_numba.planner.check import Comparison
    from llm_numba.planner.sweep import Point

_PARTS = ("products", "attention", "other", "exchanges")


def show_plan(name: str, plan: "Plan", *, as_json: bool) -> None:
    """Print a plan: memory by stage, times, and what was assumed.

    Parameters
    ----------
    name : str
        Of the model.
    plan : Plan
    as_json : bool
    """
    if as_json:
        typer.echo(json.dumps(plan_json(name, plan), indent=1))
        return
    question = plan.question
    console = tables()
    split = f"tp={question.tp} x pp={question.pp} = {plan.split.num_gpus} GPUs"
    sequences = "1 sequence" if question.batch == 1 else f"{question.batch:,} sequences"
    load = f"{sequences} of {question.context:,} tokens"
    console.print(styled(f"{name}, {question.gpu.title}, {split}; {load}", "bold"))
    console.print()
    console.print(_memory_table(plan))
    console.print()
    console.print(_time_table(plan))
    if plan.tensor_link.measured:
        console.print(styled(f"Messages between tensor ranks: {plan.tensor_link.source}."))
    show_assumptions(plan.assumptions)


def show_assumptions(assumptions: Sequence[str]) -> None:
    """Print what a plan assumes.

    Parameters
    ----------
    assumptions : sequence of str
    """
    if assumptions:
        tables().print()
        tables().print(styled("Assumed, not measured:", "bold yellow"))
        for each in assumptions:
            tables().print(styled(f"- {each}"), soft_wrap=True)


def plan_json(name: str, plan: "Plan") -> dict[str, Any]:
    """Return a plan as a JSON object.

    Parameters
    ----------
    name : str
    plan : Plan
    """
    question = plan.question
    return {
        "model": name,
        "dtype": question.dtype.name,
        "gpu": question.gpu.name,
        "tp": question.tp,
        "pp": question.pp,
        "gpus": plan.split.num_gpus,
        "batch": question.batch,
        "context": question.context,
        "prompt": question.prompt_tokens,
        "stages": [_memory_json(each) for each in plan.memories],
        "drained": _rounds_json(plan, plan.drained),
        "interleaved": _rounds_json(plan, plan.interleaved),
        "first_token_ms": 1e3 * plan.prompt.seconds,
        "weight_floor_ms": 1e3 * plan.weight_floor_seconds,
        "tensor_link": asdict(plan.tensor_link),
        "pipeline_link": asdict(plan.pipeline_link),
        "kernel_records": list(plan.table.sources),
        "assumptions": plan.assumptions,
    }


def show_comparisons(found: Sequence["Comparison"], *, as_json: bool) -> None:
    """Print plans beside measurements.

    Parameters
    ----------
    found : sequence of Comparison
    as_json : bool
    """
    if as_json:
        typer.echo(json.dumps([vars(each) | {"off": each.off} for each in found], indent=1))
        return
    table = _table("Measured", "", "Planned", "Off")
    for each in found:
        model = each.record.removesuffix(".json").rpartition("_")[2]
        table.add_row(
            styled(f"{model} {each.name}"),
            f"{each.measured:.3f} {each.unit}",
            f"{each.planned:.3f} {each.unit}",
            styled(f"{each.off:+.1%}", "green" if each.holds else "red"),
        )
    tables().print(table)
    for each in found:
        if each.reason:
            notes().print(styled(f"{each.name}: {each.reason}."), soft_wrap=True)


def show_sweep(
    title: str, points: Sequence["Point"], assumptions: Sequence[str], *, as_json: bool
) -> None:
    """Print the plans of a sweep that no other is better than.

    Parameters
    ----------
    title : str
    points : sequence of Point
        All of them.
    assumptions : sequence of str
        That these plans rest on.
    as_json : bool
        All of them, too.
    """
    from llm_numba.planner.sweep import frontier

    if as_json:
        listed = [vars(each) | {"gpus": each.num_gpus} for each in points]
        typer.echo(json.dumps({"plans": listed, "assumptions": assumptions}, indent=1))
        return
    best = frontier(points)
    count = f"{len(best)} of {len(points)} plans: no other is faster for a user and for a GPU"
    tables().print(styled(f"{title}; {count}", "bold"))
    table = _table("Tokens/s of", "a user", "a GPU", "all", "GPUs", "Batch", "Memory")
    for point in best:
        table.add_row(
            f"tp={point.tp} x pp={point.pp}",
            figure(point.per_user),
            figure(point.per_gpu),
            figure(point.per_gpu * point.num_gpus),
            f"{point.num_gpus:,}",
            f"{point.batch:,}",
            size(point.memory_bytes),
        )
    tables().print(table)
    show_assumptions(assumptions)


def figure(value: float) -> str:
    """Return a number with three digits or more.

    Parameters
    ----------
    value : float
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(first: str, *numbers: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    table.add_column(first)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _memory_table(plan: "Plan") -> "Table":
    """Make a row for each stage, or for several that follow one another and are alike."""
    table = _table("Stage", "Layers", "Weights", "KV cache", "Activations", "Other", "All")

    def columns(memory: "RankMemory") -> tuple[int, ...]:
        other = memory.buffers + memory.reserve
        return memory.weights, memory.kv, memory.activations, other, memory.taken

    for sizes, group in itertools.groupby(plan.memories, key=columns):
        alike = [memory.rank for memory in group]
        stages = dict.fromkeys((alike[0].stage, alike[-1].stage))
        layers = f"{len(alike[0].partition.layers)} each" if len(stages) > 1 else ""
        table.add_row(
            styled(" to ".join(map(str, stages)), "bold"),
            layers or str(len(alike[0].partition.layers)),
            *map(size, sizes),
        )
    card, limit = plan.question.gpu.memory_bytes, plan.fullest.limit
    table.caption = (
        f"Of a GPU's {size(card)} at most {size(limit)}. Other: messages, and CUDA itself."
    )
    return table


def _time_table(plan: "Plan") -> "Table":
    table = _table("A token of each sequence", "M", "Waiting", "ms", "Tokens/s", "a user", "a GPU")
    named = {"interleaved rounds": plan.interleaved, "drained rounds": plan.drained}
    if plan.question.pp == 1:
        named = {"one stage": plan.drained}
    for name, rounds in named.items():
        rate = plan.tokens_per_second(rounds)
        table.add_row(
            styled(name, "bold"),
            str(rounds.micro_batches),
            f"{rounds.idle:.0%}",
            figure(1e3 * rounds.seconds),
            figure(rate),
            figure(rate / plan.question.batch),
            figure(rate / plan.split.num_gpus),
        )
    slowest = plan.interleaved.slowest
    parts = ", ".join(
        f"{part} {figure(1e6 * value)} us" for part, value in vars(slowest).items() if value
    )
    floor, first = 1e3 * plan.weight_floor_seconds, 1e3 * plan.prompt.seconds
    table.add_section()
    table.add_row("reading the weights, at least", "", "", figure(floor))
    table.add_row(f"first token of {plan.question.prompt_tokens:,}", "", "", figure(first))
    table.caption = f"M micro-batches. The slowest stage's step: {parts}."
    return table


def _memory_json(memory: "RankMemory") -> dict[str, Any]:
    parts = ("weights", "activations", "buffers", "reserve", "taken", "limit")
    layers = memory.rank.partition.layers
    return {
        "first_layer": layers.start,
        "num_layers": len(layers),
        "kv_cache_bytes": memory.kv,
        **{f"{part}_bytes": getattr(memory, part) for part in parts},
    }


def _rounds_json(plan: "Plan", rounds: "Rounds") -> dict[str, Any]:
    return {
        "micro_batches": rounds.micro_batches,
        "idle": rounds.idle,
        "ms": 1e3 * rounds.seconds,
        "tokens_per_second": plan.tokens_per_second(rounds),
        "slowest_stage_us": {part: 1e6 * getattr(rounds.slowest, part) for part in _PARTS},
        "message_us": 1e6 * rounds.hop,
    }
