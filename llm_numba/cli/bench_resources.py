"""``llm-numba bench resources``: registers, shared memory and spills of every kernel."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_numba.cli.bench_gpu import Commit, Into, earlier_record
from llm_numba.cli.bench_tables import finish
from llm_numba.cli.console import notes, styled, tables


def resources(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="The record; unset: docs/results/resources_<compiler>.json."),
    ] = None,
    only: Annotated[str, typer.Option(help="Ladders, separated by commas; unset: all.")] = "",
    into: Into = None,
    commit: Commit = None,
) -> None:
    """Compile every kernel for every GPU and say what it takes; some ten minutes, no GPU."""
    from llm_numba.bench.record import default_path, require_writable, write_record
    from llm_numba.bench.resources import measure, new_record, renew_ladders
    from llm_numba.runtime.machine import package_versions

    compiler = "nvidia-nvvm"
    earlier = earlier_record(into, only)
    version = package_versions([compiler]).get(compiler, "of the toolkit")
    path = out or into or default_path("resources", f"nvvm {version}")
    require_writable(path)
    names = tuple(filter(None, only.split(",")))
    results = []
    with notes().status("Compiling") as status:
        for result in measure(names):
            results.append(result)
            status.update(styled(f"Compiling; last: {result['name']}"))
    record = new_record(results, names, commit)
    write_record(path, renew_ladders(earlier, record, names) if earlier else record)
    _show(results)
    finish(path)


def _show(results: Iterable[dict[str, Any]]) -> None:
    from rich.table import Table

    results = list(results)
    capabilities = list(dict.fromkeys(each for result in results for each in result["registers"]))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Registers by compute capability")
    for heading in (*capabilities, "Shared bytes", "Spilled bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        spilled = max(result["spill_bytes"].values())
        table.add_row(
            styled(result["name"]),
            *(str(result["registers"].get(each, "-")) for each in capabilities),
            f"{result['shared_bytes']:,}",
            styled(f"{spilled:,}", "red" if spilled else ""),
        )
    tables().print(table)
