"""``llm-numba bench``: measurements that the documentation is drawn from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_numba.cli.console import notes, styled, tables

if TYPE_CHECKING:
    from llm_numba.bench.record import Result

bench = typer.Typer(
    name="bench", help="Measure speed and memory, and write a record.", no_args_is_help=True
)


@bench.callback()
def _bench() -> None:
    """Measure speed and memory, and write a record."""


@bench.command()
def cpu(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/cpu_<this CPU>.json.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Bundled name or directory.")
    ] = "storyteller",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each measurement.")] = 9,
    processes: Annotated[
        int, typer.Option(min=1, help="Fresh interpreters for start-up and loading.")
    ] = 15,
    prefill_tokens: Annotated[int, typer.Option(min=1, help="Length of the long prompt.")] = 400,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens decoded in each run.")] = 128,
    synthetic_megabytes: Annotated[
        float, typer.Option(min=1, help="Size of a random checkpoint to load.")
    ] = 200.0,
) -> None:
    """Time the NumPy path: start-up, loading, prefill, and decoding at batch 1 to 16."""
    from llm_numba.bench.cpu import CPUSettings, measure
    from llm_numba.bench.environment import cpu as this_cpu
    from llm_numba.bench.record import default_path, make_record, require_writable, write_record

    settings = CPUSettings(
        model=model,
        repeats=repeats,
        processes=processes,
        prefill_tokens=prefill_tokens,
        new_tokens=new_tokens,
        synthetic_megabytes=synthetic_megabytes,
    )
    device = this_cpu()
    path = out or default_path("cpu", f"{device['name']} {device['cores']} cores")
    require_writable(path)
    results = []
    with notes().status("Measuring; leave the machine alone for a minute or two") as status:
        for result in measure(settings):
            results.append(result)
            status.update(styled(f"Measuring; last: {result.what}"))
    write_record(path, make_record("cpu", settings.to_json(), results))
    show(results)
    notes().print(styled(f"\nWritten: {path}", "dim"), soft_wrap=True)


def show(results: list["Result"]) -> None:
    """Print the results, with their targets where there are any."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("Measured")
    for heading in ("Median", "p10 to p90", "Target"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        figures = result.statistic
        style = {True: "green", False: "red", None: ""}[result.meets_target]
        table.add_row(
            styled(result.what),
            styled(f"{_figure(figures.median)} {figures.unit}", style),
            f"{_figure(figures.p10)} to {_figure(figures.p90)}",
            _target(result),
        )
    tables().print(table)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _target(result: "Result") -> str:
    if result.at_least is not None:
        return f">= {_figure(result.at_least)}"
    return f"<= {_figure(result.at_most)}" if result.at_most is not None else ""
