"""``llm-numba bench engine``: latency, throughput, memory and transfer of a whole engine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_numba.cli.bench_tables import collect, finish, show_left_out
from llm_numba.cli.console import tables

if TYPE_CHECKING:
    from llm_numba.bench.record import Result


def engine(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="The record; unset: docs/results/engine_<device>_<model>.json."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Bundled name, directory, or random:SHAPE.")
    ] = "random:llama-3.2-1b",
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    dtype: Annotated[
        str | None, typer.Option(help="Number format; unset: the model's own.")
    ] = None,
    only: Annotated[str, typer.Option(help="Parts, separated by commas; unset: all of them.")] = "",
    batches: Annotated[str, typer.Option(help="Batch sizes, 1,32; unset: 1 to 256.")] = "",
    contexts: Annotated[str, typer.Option(help="Contexts; unset: 128 to 32768.")] = "",
    prompts: Annotated[str, typer.Option(help="Lengths of prompts; unset: 128 to 2048.")] = "",
    warmup: Annotated[int, typer.Option(min=0, help="Steps that do not count.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Steps that count, at most.")] = 500,
    seconds: Annotated[float, typer.Option(min=0, help="Of counted steps, about.")] = 2.0,
    requests: Annotated[int, typer.Option(min=1, help="Of the serving run.")] = 256,
    limit: Annotated[
        float, typer.Option(min=0, help="Seconds for all; each part has a share of them.")
    ] = 600.0,
    commit: Annotated[
        str | None, typer.Option(help="The commit that runs, for a copy of it without git.")
    ] = None,
) -> None:
    """Time decode steps, first tokens and many requests, against the memory and Transformers."""
    from llm_numba.bench.engine import EngineSettings, measure
    from llm_numba.bench.record import default_path, make_record, require_writable, write_record
    from llm_numba.models import resolve_model
    from llm_numba.runtime import resolve_device
    from llm_numba.runtime.machine import cpu, gpu_clocks, gpus

    device = resolve_device(device)
    resolve_model(model)
    chosen = {
        "parts": tuple(filter(None, only.split(","))),
        "batches": _numbers("batches", batches),
        "contexts": _numbers("contexts", contexts),
        "prompts": _numbers("prompts", prompts),
    }
    settings = EngineSettings(
        model,
        device,
        dtype,
        warmup=warmup,
        steps=steps,
        point_seconds=seconds,
        requests=requests,
        **{name: value for name, value in chosen.items() if value},
    )
    machine = gpus()[0]["name"] if device == "cuda" else cpu()["name"]
    path = out or default_path("engine", machine, model.removeprefix("random:"))
    require_writable(path)
    clocks, budget = [gpu_clocks()], settings.budget(limit)
    results = collect(measure(settings, budget), "some minutes")
    clocks.append(gpu_clocks())
    noted = settings.to_json() | {
        "limit_seconds": limit,
        "clocks": dict(zip(("before", "after"), clocks, strict=True)),
    }
    record = make_record("engine", noted, results, commit)
    write_record(path, record | {"left_out": budget.left_out})
    _show(results)
    show_left_out(budget.left_out)
    finish(path)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    from llm_numba.errors import LLMNumbaError

    try:
        numbers = tuple(map(int, filter(None, text.split(","))))
    except ValueError:
        numbers = (0,)
    if numbers and min(numbers) < 1:
        raise LLMNumbaError(
            f"--{name} {text} is no list of numbers.", "Give numbers of at least 1, with commas."
        )
    return numbers


def _show(results: list["Result"]) -> None:
    """Print the classic table: milliseconds a step with their tail, and what follows of them."""
    from rich.table import Table

    from llm_numba.cli.bench_tables import show

    by_name = {result.name: result for result in results}
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("Batch", "Context", "Mean ms", "Median", "p99", "Tokens/s", "Of the copy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in by_name.items():
        if name.startswith("decode/"):
            shape, share = result.shape, by_name[name.replace("decode/", "transfer/")]
            table.add_row(
                f"{shape['batch']}",
                f"{shape['context']:,}",
                f"{shape['mean_ms']:.3f}",
                f"{result.statistic.median:.3f}",
                f"{shape['p99_ms']:.3f}",
                f"{shape['tokens_per_second']:,.0f}",
                f"{share.statistic.median:.0f} %",
            )
    if table.rows:
        tables().print(table)
        tables().print()
    show([each for each in results if not each.name.startswith(("decode/", "transfer/"))])
