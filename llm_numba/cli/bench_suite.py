"""``llm-numba bench all`` and ``bench multi``: many benchmarks within one time limit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from llm_numba.cli.bench_gpu import Commit
from llm_numba.cli.console import notes, styled

if TYPE_CHECKING:
    from rich.progress import Progress

    from llm_numba.bench.suite import Case, Outcome

Limit = Annotated[float, typer.Option(min=1, help="Seconds for all.")]


def every(
    *,
    limit: Limit = 3600.0,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Without a GPU, also where there is one.")
    ] = False,
    only: Annotated[
        str, typer.Option(help="Benchmarks, separated by commas: kernels,engine; unset: all.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and for how long at most.")
    ] = False,
    commit: Commit = None,
) -> None:
    """Make all records that this machine can make, one after another, within a time limit.

    Each is written as soon as it is finished: Ctrl-C, or one that fails, loses no other.
    """
    from cuda import pathfinder

    from llm_numba.bench.suite_cases import at_commit, of_all
    from llm_numba.runtime import visible_gpus
    from llm_numba.runtime.machine import cpu as this_cpu
    from llm_numba.runtime.machine import gpus

    device = this_cpu()
    names = [] if cpu or not visible_gpus() else [gpu["name"] for gpu in gpus()]
    compiles = pathfinder.find_nvidia_binary_utility("ptxas") is not None
    found = of_all(names, f"{device['name']} {device['cores']} cores", compiles=compiles)
    wanted = at_commit(_chosen(found, only), commit)
    if dry_run:
        for case in wanted:
            typer.echo(f"{case.seconds:5.0f} s  {case.title}")
        return
    run_all(wanted, limit)


def multi(
    *,
    limit: Limit = 1500.0,
    cpu: Annotated[bool, typer.Option("--cpu", help="Ranks of the CPU, also with GPUs.")] = False,
    commit: Commit = None,
) -> None:
    """Make all records of several ranks, one after another, within a time limit."""
    from llm_numba.bench.suite_cases import at_commit, of_ranks
    from llm_numba.parallel.launch import find_launcher
    from llm_numba.runtime import visible_gpus

    find_launcher()  # or the error that says what is missing
    run_all(at_commit(of_ranks(0 if cpu else len(visible_gpus())), commit), limit)


def _chosen(cases: list["Case"], only: str) -> list["Case"]:
    from llm_numba.errors import LLMNumbaError

    wanted = set(filter(None, only.split(",")))
    known = {case.benchmark: None for case in cases}
    if unknown := sorted(wanted - set(known)):
        raise LLMNumbaError(
            f"--only {unknown[0]} names nothing that this machine can measure.",
            f"Choose of: {', '.join(known)}.",
        )
    return [case for case in cases if not wanted or case.benchmark in wanted]


def run_all(wanted: list["Case"], limit: float) -> None:
    """Run cases, showing how far they are; name at the end what has no record.

    Parameters
    ----------
    wanted : list of Case
    limit : float
        Seconds for all.

    Raises
    ------
    typer.Exit
        With code 1, if something has no record.
    """
    from llm_numba.bench.suite import run
    from llm_numba.errors import ParallelError
    from llm_numba.parallel.launch import find_launcher
    from llm_numba.parallel.probing import clean_environment

    try:
        launcher = find_launcher()
    except ParallelError:
        launcher = None
    # Multicast over NVLink is not everywhere to be had; who wants it sets the variable.
    environment = {"NCCL_NVLS_ENABLE": "0"} | clean_environment()
    outcomes: list[Outcome] = []
    with _progress(len(wanted)) as progress:
        (task,) = progress.task_ids
        progress.update(task, description=wanted[0].title)
        try:
            for outcome in run(wanted, launcher, limit, environment):
                outcomes.append(outcome)
                done = len(outcomes)
                title = wanted[done].title if done < len(wanted) else "done"
                progress.update(task, completed=done, description=title)
                progress.console.print(styled(_line(outcome)), soft_wrap=True)
        finally:
            progress.stop()
            _tell(wanted, outcomes)
    if any(outcome.problem for outcome in outcomes):
        raise typer.Exit(1)


@contextmanager
def _progress(count: int) -> Iterator["Progress"]:
    """Show a bar of cases and the time, if stderr is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = notes()
    one_line = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    bar = Progress(
        MofNCompleteColumn(), BarColumn(bar_width=20), TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False, table_column=one_line),
        console=console, expand=True, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    bar.add_task("", total=count)
    with bar:
        yield bar


def _line(outcome: "Outcome") -> str:
    said = outcome.problem or "its record is written"
    return f"{outcome.seconds:5.0f} s  {outcome.case.title}: {said}"


def _tell(wanted: list["Case"], outcomes: list["Outcome"]) -> None:
    """Name what has no record, at the end, where it is seen."""
    written = sum(not outcome.problem for outcome in outcomes)
    console = notes()
    console.print(styled(f"\n{written} of {len(wanted)} records are written.", "bold"))
    for outcome in outcomes:
        if outcome.problem:
            told = f"Not measured: {outcome.case.title}: {outcome.problem}"
            console.print(styled(told), soft_wrap=True)
    for case in wanted[len(outcomes) :]:
        console.print(styled(f"Not measured: {case.title}: interrupted"), soft_wrap=True)
