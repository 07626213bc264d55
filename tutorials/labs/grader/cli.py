"""The commands behind `make lab`, `make hint` and `make grade`, and one that races the labs."""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape

from grader.children import Children
from grader.grades import grade, require_writable, write_json, write_junit
from grader.hints import next_hint
from grader.lab import LabError, find_labs
from grader.mistakes import planted
from grader.races import grades, race, require_gpu, write_races
from grader.run import PUBLIC_KEY, run_lab
from grader.terminal import show_graded, show_grades, show_lab, show_race
from llm_numba.errors import LLMNumbaError

_POLL_S = 0.3
_MPI = "run ranks by mpirun, too"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 if a lab is not done, 2 for bad input.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the program if not given.
    """
    options = _parser().parse_args(arguments)
    console = Console(highlight=False)
    try:
        return options.command(options, console)
    except LLMNumbaError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]Error:[/] {escape(error.cause)}")
        Console(stderr=True, highlight=False).print(error.remedy, markup=False)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grader", description="Check and grade the labs.")
    commands = parser.add_subparsers(required=True)

    check = commands.add_parser("lab", help="run a lab's checks on an exercise")
    check.add_argument("lab", help="number of the lab")
    check.add_argument("--file", type=Path, help="another file than the lab's exercise.py")
    check.add_argument("--watch", action="store_true", help="again whenever the file is saved")
    check.add_argument("--gpu", action="store_true", help="the checks that need a GPU, too")
    check.add_argument("--mpi", action="store_true", help=_MPI)
    check.set_defaults(command=_lab)

    hint = commands.add_parser("hint", help="show the next hint for the step that is not done")
    hint.add_argument("lab", help="number of the lab")
    hint.add_argument("--file", type=Path, help="another file than the lab's exercise.py")
    hint.add_argument("--step", type=int, help="of another step than the first unfinished one")
    hint.set_defaults(command=_hint)

    races = commands.add_parser("race", help="race solutions and slow versions on this GPU")
    races.add_argument("labs", help="a number, numbers with commas between, or all")
    races.add_argument("--out", type=Path, help="write what was found into a JSON file")
    races.add_argument("--mpi", action="store_true", help=_MPI)
    races.set_defaults(command=_race)

    marks = commands.add_parser("grade", help="points for each step, of one or many students")
    marks.add_argument("labs", help="a number, numbers with commas between, or all")
    marks.add_argument("--dir", type=Path, help="a folder with a folder for each student")
    marks.add_argument("--out", type=Path, help="write the points into a JSON file")
    marks.add_argument("--junit", type=Path, help="write them into a JUnit XML file")
    marks.add_argument("--key", type=Path, help="a file with the key that seeds the hidden data")
    marks.add_argument("--gpu", action="store_true", help="the checks that need a GPU, too")
    marks.add_argument("--mpi", action="store_true", help=_MPI)
    marks.set_defaults(command=_grade)
    return parser


def _one_lab(wanted: str):
    labs = list(find_labs(wanted))
    if len(labs) != 1:
        raise LabError(f"{wanted!r} is not one lab.", "Give a number: LAB=1.")
    return labs[0]


def _lab(options: argparse.Namespace, console: Console) -> int:
    lab = _one_lab(options.lab)
    path = options.file or lab.exercise
    with TemporaryDirectory() as folder, Children(mpirun=options.mpi) as children:
        if path.resolve().parent == lab.folder / "wrong" and path.is_file():
            program = planted(path.resolve())
            path = Path(folder) / path.name
            path.write_text(program)
        while True:
            result = run_lab(lab, path, children, stop=True, gpu=options.gpu)
            if options.watch:
                console.clear()
            show_lab(console, result)
            if not options.watch:
                return 2 if result.broken else 0 if result.passed else 1
            console.print("[dim]Waiting for the file to be saved (Ctrl+C ends this) ...[/]")
            _wait_for_change(path)


def _wait_for_change(path: Path) -> None:
    """Return when a file has been written. Editors may take it away for a moment."""
    before = now = _written(path)
    while now in (None, before):
        time.sleep(_POLL_S)
        now = _written(path)


def _written(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _hint(options: argparse.Namespace, console: Console) -> int:
    lab = _one_lab(options.lab)
    step = options.step
    if step is None:
        with Children() as children:
            result = run_lab(lab, options.file or lab.exercise, children, stop=True)
        current = result.current
        if current is None:
            console.print(f"All steps of lab {lab.number} are done: nothing to hint at.")
            return 0
        step = current.number
    console.print(next_hint(lab, step))
    return 0


def _grade(options: argparse.Namespace, console: Console) -> int:
    labs = list(find_labs(options.labs))
    key = _read_key(options.key)
    outputs = list(filter(None, (options.out, options.junit)))
    for path in outputs:
        require_writable(path)
    with Children(mpirun=options.mpi) as children:
        results = grade(labs, options.dir, children, key, gpu=options.gpu)
    show_grades(console, results)
    if options.out:
        write_json(options.out, results, hidden=key != PUBLIC_KEY)
    if options.junit:
        write_junit(options.junit, results)
    for path in outputs:
        console.print(f"Wrote {path}", markup=False)
    return 0


def _race(options: argparse.Namespace, console: Console) -> int:
    labs = list(find_labs(options.labs))
    graded, raced = [], []
    with Children(mpirun=options.mpi) as children:
        require_gpu(children)
        for lab in labs:
            for entry in race(lab, children):
                raced.append(entry)
                show_race(console, entry)
        for lab in labs:
            graded.append(grades(lab, children))
            show_graded(console, graded[-1])
    if options.out:
        write_races(options.out, graded, raced)
    return int(not all(each["passed"] for each in graded))


def _read_key(path: Path | None) -> str:
    if path is None:
        return PUBLIC_KEY
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or "it is no text"
        raise LabError(f"The key {path} cannot be read: {reason}.", "Name a text file.") from None
    if not key:
        raise LabError(f"The key {path} is empty.", "Write any line of text into it.")
    return key
