"""What the benchmarks print: progress, and tables of results."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_numba.cli.console import notes, styled, tables

if TYPE_CHECKING:
    from llm_numba.bench.record import Result
    from llm_numba.bench.tables import Table


def collect(results: Iterable["Result"], advice: str) -> list["Result"]:
    """Run a benchmark, showing what it has just measured.

    Parameters
    ----------
    results : iterable of Result
        Each comes when it is measured.
    advice : str
        What to do meanwhile.
    """
    collected = []
    with notes().status(styled(f"Measuring; {advice}")) as status:
        for result in results:
            collected.append(result)
            status.update(styled(f"Measuring; last: {result.what}"))
    return collected


def finish(path: Path) -> None:
    """Say where the record is."""
    notes().print(styled(f"\nWritten: {path}", "dim"), soft_wrap=True)


def show_left_out(left_out: dict[str, str]) -> None:
    """Say what was not measured, and why."""
    for name, why in left_out.items():
        notes().print(styled(f"Left out: {name}: {why}"))


def show_table(table: "Table") -> None:
    """Print a table of a page."""
    from rich.table import Table as Columns

    columns = Columns(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(table.headings):
        columns.add_column(styled(heading), justify="right" if number else "left")
    for row in table.rows:
        columns.add_row(*(styled(cell.replace("`", "")) for cell in row))
    tables().print(columns)


def show_counters(results: Iterable[dict[str, Any]]) -> None:
    """Print the simulator's counts beside the hardware's, equal ones as one number."""
    from rich.table import Table

    from llm_numba.bench.counters import COUNTERS, verdict

    colours = {"equal": "green", "explained": "yellow", "unexplained": "red", "absent": "dim"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("simulator | hardware")
    for counter in COUNTERS:
        table.add_column(counter.name.replace("_", "\n"), justify="right", no_wrap=True)
    for result in results:
        cells = []
        for entry in result["counters"].values():
            kind = verdict(entry)
            ours, theirs = (_count(entry[side]) for side in ("simulator", "hardware"))
            both = ours if kind == "equal" else f"{ours} | {theirs}"
            cells.append(styled(both, colours[kind]))
        table.add_row(styled(result["name"]), *cells)
    tables().print(table)


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


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
