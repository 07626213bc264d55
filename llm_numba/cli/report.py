"""``llm-numba report``: what is known of a machine, on one page to read and to print."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_numba.cli.bench_tables import finish
from llm_numba.cli.console import waiting

if TYPE_CHECKING:
    from llm_numba.bench.report.archive import Record
    from llm_numba.bench.report.page import Section
    from llm_numba.bench.tables import Table


def report(
    *,
    out: Annotated[Path, typer.Option(help="The page; .md is Markdown, all else HTML.")] = Path(
        "report.html"
    ),
    results: Annotated[
        Path | None, typer.Option(help="Folder with the records; unset: docs/results.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="A part of a machine's name, or all; unset: this machine."),
    ] = None,
    doctor: Annotated[
        bool, typer.Option(help="Say what works on this machine; takes some seconds.")
    ] = True,
) -> None:
    """Write one page on a machine: what works, kernels, engine, roofline, ranks.

    It measures nothing: it shows the records that are there, and names the command for what is not.
    """
    from llm_numba.bench.environment import capture_environment
    from llm_numba.bench.record import default_path, require_writable, write_text
    from llm_numba.bench.report.archive import find_machines, machine_of, machines, read_folder
    from llm_numba.bench.report.page import Section, html, markdown

    require_writable(out)
    folder = results or default_path("report").parent
    records = read_folder(folder)
    here = capture_environment()
    this = machine_of(here)
    chosen = find_machines(records, device, this)
    pages: list[Section] = []
    for machine in chosen:
        own = [each for each in records if each.machine == machine]
        environment = (
            here if machine == this else max(own, key=lambda each: each.date).data["environment"]
        )
        pages += _machine(machine, environment, own, doctor=doctor and machine == this)
    others = [each for each in machines(records) if each not in chosen]
    if others:
        told = [f"`{each}`" for each in others]
        words = f"{folder} has records of others, too: {', '.join(told)}. `--device` chooses."
        pages.append(Section("Other machines", [words], level=2))
    today = datetime.now(UTC).date().isoformat()
    title = f"llm_numba on {chosen[0] if len(chosen) == 1 else f'{len(chosen)} machines'}, {today}"
    write = markdown if out.suffix == ".md" else html
    write_text(out, write(title, pages))
    finish(out)


def _machine(
    machine: str, environment: dict, records: list["Record"], *, doctor: bool
) -> list["Section"]:
    """Return the sections on one machine."""
    from llm_numba.bench.report.archive import gpus_of
    from llm_numba.bench.report.page import Section
    from llm_numba.bench.report.sections import environment_table, sections

    found = [Section(machine, [environment_table(environment)], level=2)]
    if doctor:
        with waiting("Finding out what works"):
            found.append(Section("What works here", [_findings()]))
    return found + sections(records, has_gpu=bool(gpus_of(environment)))


def _findings() -> "Table":
    from llm_numba.bench.tables import Table
    from llm_numba.cli.doctor import examine

    rows = []
    for each in examine():
        remedy = f" `{each.remedy}`" if each.remedy else ""
        rows.append([each.part, each.status, f"{each.detail}{remedy}"])
    return Table(["part", "status", "found"], rows, words=True)
