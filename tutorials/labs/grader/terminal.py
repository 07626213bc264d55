"""What a student sees in the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from grader.run import CheckResult, LabResult, StepResult

_MARKS = {
    "passed": ("✓", "green"),
    "failed": ("✗", "red"),
    "not written": ("…", "yellow"),
    "not tried": ("·", "dim"),
    "skipped": ("-", "dim"),
}


def show_lab(console: Console, result: LabResult) -> None:
    """Print how a lab went: its steps, and the first thing to mend.

    Parameters
    ----------
    console : Console
    result : LabResult
    """
    lab = result.lab
    path = escape(_near(result.path))
    console.print(Rule(f"[bold]Lab {lab.number}: {escape(lab.title)}[/]  {path}"))
    for message in result.refused:
        console.print(Text(f"{_near(result.path)}, {message}", style="red"))
    if result.refused:
        console.print("Nothing was run.")
        return
    for step in result.steps:
        _show_step(console, step)
    for what in result.not_run:
        console.print(Text(f"- not run {what}", style="dim"))
    if result.float64:
        lines = ", ".join(map(str, result.float64))
        console.print(Text(f"Computed in float64, which most GPUs do slowly: line {lines}. Write "
                           "float32(0), not 0 or 0.0, where a sum begins and where numbers are "
                           "compared.", style="yellow"))  # fmt: skip
    current = result.current
    if current is None:
        console.print(
            f"[bold green]All steps are done[/]: {result.points} of {result.possible} points."
        )
        return
    trouble = current.trouble
    if trouble is not None:
        _show_trouble(console, result, current, trouble)
    console.print(
        f"{result.points} of {result.possible} points. "
        f"Stuck? [bold]make hint LAB={lab.number}[/] shows a hint for step {current.number}."
    )


def _show_step(console: Console, step: StepResult) -> None:
    mark, style = _MARKS[step.state]
    earned = sum(check.points for check in step.checks)
    possible = sum(check.possible for check in step.checks if check.state != "skipped")
    head = Text.assemble((f"{mark} Step {step.number}: {step.title}", style))
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    line.add_row(head, Text(f"{earned}/{possible}", style=style))
    console.print(line)
    if step.state in ("not written", "not tried"):
        return
    for check in step.checks:
        mark, style = _MARKS[check.state]
        timed = f": {check.raced.ratio:.2f} times" if check.raced else ""
        console.print(Padding(Text(f"{mark} {check.title}{timed}", style=style), (0, 0, 0, 4)))
        if check.state == "skipped":
            console.print(Padding(Text(check.message, style="dim"), (0, 0, 0, 6)))


def _show_trouble(
    console: Console, result: LabResult, step: StepResult, check: CheckResult
) -> None:
    console.print()
    if check.state == "not written":
        console.print(Text(check.message, style="yellow"))
        return
    console.print(Text(f"Step {step.number}, {check.title}:", style="bold"))
    console.print(Padding(Text(check.message), (0, 0, 0, 2)))
    if check.line:
        console.print(Padding(_excerpt(result.path, check.line), (1, 0, 1, 2)))
    if result.printed:
        console.print(Padding(Group(Text("It printed:", style="dim"), Text(result.printed)),
                              (0, 0, 0, 2)))  # fmt: skip


def _excerpt(path: Path, line: int) -> Group:
    """Show some lines of the student's file around one of them."""
    code = Syntax(
        path.read_text(encoding="utf-8-sig"), "python", line_numbers=True, highlight_lines={line},
        line_range=(max(1, line - 2), line + 2), background_color="default", word_wrap=True,
    )  # fmt: skip
    return Group(Text(f"{_near(path)}:{line}", style="dim"), code)


def _near(path: Path) -> str:
    """Name a file as one would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def show_grades(console: Console, results: dict[str, list[LabResult]]) -> None:
    """Print a table: a row a student, a column a lab; twelve labs fit into 80 columns.

    Parameters
    ----------
    console : Console
    results : dict of str to list of LabResult
        By student.
    """
    courses = list(results.values())
    # What was refused could not even be tried on a GPU: others could get more.
    possible = [max(each.possible for each in one_lab) for one_lab in zip(*courses, strict=True)]
    table = Table(box=None, pad_edge=False, show_footer=True, footer_style="dim")
    table.add_column("points, by lab", "possible")
    for result, most in zip(courses[0], possible, strict=True):
        table.add_column(str(result.lab.number), str(most), justify="right")
    table.add_column("all", str(sum(possible)), justify="right")
    for student, labs in results.items():
        points = [each.points for each in labs]
        table.add_row(escape(student), *map(str, points), str(sum(points)))
    console.print(table)
    for what, numbers in _not_run(courses).items():
        labs = ", ".join(map(str, numbers))
        console.print(Text(f"Not run {what} (labs {labs})", style="dim"))


def show_race(console: Console, entry: dict[str, Any]) -> None:
    """Print how a version of a lab did on a GPU.

    Parameters
    ----------
    console : Console
    entry : dict
        As :func:`grader.races.race` gives it.
    """
    who = f"lab {entry['lab']}, {entry['version']}"
    if "rounds" not in entry or entry["bound"] is None:
        console.print(Text(f"{who}: {entry['message']}", style="red"))
        return
    ratios = [theirs / ours for theirs, ours in entry["rounds"]]
    times = ", ".join(f"{each:.3f}" for each in ratios)
    micros = ", ".join(f"{1e6 * theirs:.1f}" for theirs, _ in entry["rounds"])
    console.print(Text(f"{who}: {times} times ours ({micros} µs), bound {entry['bound']:g}"))


def show_graded(console: Console, entry: dict[str, Any]) -> None:
    """Print how a lab's solution was graded.

    Parameters
    ----------
    console : Console
    entry : dict
        As :func:`grader.races.grades` gives it.
    """
    style = "green" if entry["passed"] else "red"
    points = f"{entry['points']} of {entry['possible']} points"
    console.print(Text(f"lab {entry['lab']}, the solution: {points}", style=style))
    for each in entry["failed"]:
        console.print(Text(f"  {each}", style="red"))
    for each in entry["not_run"]:
        console.print(Text(f"  not run {each}", style="dim"))


def _not_run(courses: list[list[LabResult]]) -> dict[str, list[int]]:
    """Return the numbers of the labs of which something was not run, by what that is."""
    found: dict[str, list[int]] = {}
    # Of what was refused nothing was run at all, which is said elsewhere.
    tried = [result for labs in courses for result in labs if not result.refused]
    for result in sorted(tried, key=lambda each: each.lab.number):
        checks = [check for step in result.steps for check in step.checks]
        skipped = [
            f"on a GPU: {each.message.removeprefix('needs a GPU: ')}"
            for each in checks
            if each.state == "skipped"
        ]
        for what in dict.fromkeys([*skipped, *result.not_run]):
            said = what.replace(f"make lab LAB={result.lab.number} ", "")
            numbers = found.setdefault(said, [])
            if result.lab.number not in numbers:
                numbers.append(result.lab.number)
    return found
