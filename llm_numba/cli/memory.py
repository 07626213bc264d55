"""``llm-numba doctor --model``: what an engine would take of a GPU, before anything is loaded."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from llm_numba.cli.console import styled, tables
from llm_numba.cli.models import size
from llm_numba.errors import EngineError

if TYPE_CHECKING:
    from llm_numba.engine.memory import MemoryOptions, MemoryPlan

_PANEL = "Memory of a model"


@dataclass(frozen=True)
class MemoryQuestion:
    """Which model, on which card, with which of the engine's options."""

    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            help="Show what an engine with this model takes: a bundled name, directory, hub id, or"
            " random:SHAPE.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    gpu_memory: Annotated[
        float | None,
        Option(
            help="Of a GPU with this many GiB, as cards are sold; unset: of the one here, or of"
            " main memory.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    dtype: Annotated[
        str | None,
        Option(help="Number format; unset: as the engine chooses.", rich_help_panel=_PANEL),
    ] = None
    gpu_memory_utilization: Annotated[
        float | None,
        Option(
            help="Part of the card that the engine may take; unset: 0.9 of what is free.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    num_blocks: Annotated[
        int | None,
        Option(help="Blocks of the KV cache; unset: what the rest holds.", rich_help_panel=_PANEL),
    ] = None
    block_size: Annotated[
        int, Option(min=1, help="Tokens in a block of the KV cache.", rich_help_panel=_PANEL)
    ] = 16
    max_model_len: Annotated[
        int | None,
        Option(min=1, help="Longest sequence; unset: the model's context.", rich_help_panel=_PANEL),
    ] = None
    max_num_seqs: Annotated[
        int, Option(min=1, help="Sequences at a time.", rich_help_panel=_PANEL)
    ] = 64
    max_num_batched_tokens: Annotated[
        int, Option(min=1, help="Tokens of a step.", rich_help_panel=_PANEL)
    ] = 2048


def answer(question: MemoryQuestion, *, as_json: bool) -> None:
    """Print where the memory of an engine would go.

    Parameters
    ----------
    question : MemoryQuestion
        With a model.
    as_json : bool

    Raises
    ------
    LLMNumbaError
        If there is no such model, or it does not fit.
    """
    from llm_numba.engine.memory import MemoryOptions, plan_memory
    from llm_numba.models import open_model, resolve_model
    from llm_numba.runtime import resolve_device, resolve_dtype

    files = open_model(resolve_model(question.model))
    card = _card_bytes(question.gpu_memory)
    device = "cuda" if card else resolve_device("auto")
    dtype = resolve_dtype(question.dtype, device, files.checkpoint.stored_dtype)
    options = MemoryOptions(
        question.max_model_len or files.config.max_position_embeddings,
        question.block_size,
        question.num_blocks,
        question.max_num_seqs,
        question.max_num_batched_tokens,
        question.gpu_memory_utilization,
    )
    plan = plan_memory(files.config, dtype, device, options, card)
    if as_json:
        typer.echo(json.dumps(_as_json(plan, device, dtype.name), indent=1))
    else:
        _show(plan, options, device, dtype.name)


def _card_bytes(gib: float | None) -> int | None:
    if gib is None:
        return None
    if not 0 < gib < 2**20:
        raise EngineError(
            f"--gpu-memory={gib} is no size of a GPU's memory.", "Give it in GiB, as 80."
        )
    return int(gib * 2**30)


def _as_json(plan: "MemoryPlan", device: str, dtype: str) -> dict[str, Any]:
    return {
        "device": device,
        "dtype": dtype,
        "weights_bytes": plan.needs.weights,
        "activations_bytes": plan.needs.activations,
        "reserve_bytes": plan.needs.reserve,
        "kv_cache_bytes": plan.kv_cache,
        "taken_bytes": plan.taken,
        "limit_bytes": plan.limit,
        "total_bytes": plan.device_bytes,
        "num_blocks": plan.num_blocks,
        "block_bytes": plan.block_bytes,
    }


def _show(plan: "MemoryPlan", options: "MemoryOptions", device: str, dtype: str) -> None:
    from rich.table import Table

    tokens = plan.num_blocks * options.block_size
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("Memory", "What"):
        table.add_column(heading)
    whole = "Of the GPU" if device == "cuda" else "Of what is free"
    for heading in ("Bytes", whole):
        table.add_column(heading, justify="right")

    def row(name: str, what: str, num_bytes: int, **style: str) -> None:
        share = f"{num_bytes / plan.device_bytes:.1%}"
        table.add_row(styled(name, "bold"), what, size(num_bytes), share, **style)

    row("weights", f"in {dtype}", plan.needs.weights)
    row(
        "activations",
        f"a step of {options.max_num_batched_tokens:,} tokens, and logits of"
        f" {options.max_num_seqs:,} sequences",
        plan.needs.activations,
    )
    if plan.needs.reserve:
        row("reserve", "CUDA's context and the code of kernels", plan.needs.reserve)
    row(
        "KV cache",
        f"{plan.num_blocks:,} blocks of {options.block_size} tokens: {tokens:,} tokens,"
        f" {tokens / options.max_model_len:,.1f} sequences of {options.max_model_len:,}",
        plan.kv_cache,
    )
    table.add_section()
    row("all", f"of at most {size(plan.limit)} that it may take", plan.taken, style="bold")
    tables().print(table)
