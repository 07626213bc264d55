"""``llm-numba models``: what is bundled, and what a checkpoint's files hold."""

import json
from typing import Annotated

import typer

from llm_numba.cli.console import printable, report, styled, tables
from llm_numba.cli.inspection import Inspection, Weights, inspect


def models(
    model: Annotated[
        str | None,
        typer.Argument(help="Bundled name, directory, or hub id.", show_default=False),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """List the bundled models, or say what one model's files hold.

    Reads headers only, so a large model takes no longer than a small one. Exit code 2 means that
    the model cannot be loaded here.
    """
    from llm_numba.models import bundled_models

    inspections = [inspect(name) for name in (bundled_models() if model is None else [model])]
    if as_json:
        found = [inspection.to_json() for inspection in inspections]
        typer.echo(json.dumps(found if model is None else found[0], indent=1))
    elif model is not None:
        show(inspections[0])
    else:
        show_list(inspections)
    if model is not None and inspections[0].problems:
        raise typer.Exit(2)


def show_list(inspections: list[Inspection]) -> None:
    """Print a line per model."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("Bundled model", "Architecture"):
        table.add_column(heading)
    for heading in ("Parameters", "On disk", "Context"):
        table.add_column(heading, justify="right")
    for found in inspections:
        config = found.config or {}
        table.add_row(
            styled(found.name, "bold"),
            str(config.get("architecture")),
            f"{found.total.parameters:,}",
            size(found.total.bytes),
            f"{config.get('max_position_embeddings'):,}",
        )
    tables().print(table)


def show(found: Inspection) -> None:
    """Print all that is known of one model, and on stderr what keeps it from loading."""
    from rich.table import Table

    console = tables()
    facts = Table.grid(padding=(0, 3, 0, 0))
    for label, value in _facts(found):
        facts.add_row(styled(label, "bold"), styled(value))
    console.print(facts)
    if found.weights:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        table.add_column("Weights")
        for heading in ("Tensors", "Parameters", "Bytes", ""):
            table.add_column(heading, justify="right")
        for role, weights in found.weights.items():
            table.add_row(role, *_figures(weights, found.total))
        if found.config and found.config["tie_word_embeddings"] and "LM head" not in found.weights:
            table.add_row("LM head", styled("the embedding", "dim"))
        table.add_section()
        table.add_row("total", *_figures(found.total, found.total), style="bold")
        console.print()
        console.print(table)
    for problem in found.problems:
        report(problem)


def size(num_bytes: float) -> str:
    """Return a byte count in the unit that suits it, ``3.2 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.2f} GiB"


def _facts(found: Inspection) -> list[tuple[str, str]]:
    facts = [("Model", found.name), ("Directory", found.directory)]
    if config := found.config:
        heads = (
            f"{config['num_heads']} query, {config['num_kv_heads']} KV, {config['head_dim']} wide"
        )
        facts += [
            ("Architecture", config["architecture"]),
            ("Layers", f"{config['num_layers']}, hidden size {config['hidden_size']:,},"
                f" MLP {config['intermediate_size']:,}"),
            ("Heads", heads),
            ("Vocabulary", f"{config['vocab_size']:,}"),
            ("Context", f"{config['max_position_embeddings']:,} tokens"),
            ("KV cache", f"{size(4 * found.kv_values_per_token)} a token in float32"),
        ]  # fmt: skip
    if found.weights:
        formats = ", ".join(f"{name} {size(count)}" for name, count in found.storage.items())
        facts.append(("Stored as", formats))
        facts.append(("In memory", f"{size(4 * found.total.parameters)} in float32"))
    loads = "yes" if found.has_tokenizer else "yes, for prompts of token ids: no tokenizer.json"
    facts.append(("Loads here", "no" if found.problems else loads))
    return [(label, printable(value)) for label, value in facts]


def _figures(weights: Weights, total: Weights) -> tuple[str, str, str, str]:
    share = f"{weights.bytes / total.bytes:.1%}" if total.bytes else ""
    return f"{weights.tensors:,}", f"{weights.parameters:,}", f"{weights.bytes:,}", share
