"""Submissions made up for a test."""

import ast
from pathlib import Path

from grader.lab import Lab, load_lab
from grader.run import LabResult, run_lab
from grader.student import Student
from grader.submission import Submission

FIRST = Path(__file__).parents[2] / "tutorials" / "labs" / "lab01_warmup"


def first_lab() -> Lab:
    """Lab 1, which the tests of the grader use."""
    return load_lab(FIRST)


def solution(**replaced: str) -> str:
    """The solution of lab 1, with the body of some functions replaced."""
    source = (FIRST / "solution.py").read_text()
    for name, body in replaced.items():
        node = next(each for each in ast.parse(source).body if getattr(each, "name", "") == name)
        lines = source.splitlines()
        lines[node.body[0].lineno - 1 : node.end_lineno] = body.splitlines()
        source = "\n".join(lines) + "\n"
    return source


class Bench:
    """Writes files, and runs lab 1 or single calls on them.

    Parameters
    ----------
    folder : Path
    children : Children
    """

    def __init__(self, folder: Path, children) -> None:
        self.folder = folder
        self.children = children
        self.students: list[Student] = []

    def grade(self, source: str, **options) -> LabResult:
        """Run lab 1 on a file."""
        path = self.folder / "exercise.py"
        path.write_text(source)
        return run_lab(first_lab(), path, self.children, **options)

    def student(self, source: str, seconds: int = 5, imports: tuple[str, ...] = ()) -> Student:
        """A file as a check gets it; the rules have not seen it."""
        path = self.folder / "exercise.py"
        path.write_text(source)
        submission = Submission(path, source, ast.parse(source), imports, seconds)
        self.students.append(Student(submission, self.children))
        return self.students[-1]

    def end(self) -> None:
        """End the children of all students."""
        for student in self.students:
            student.end()


def step(result: LabResult, number: int) -> list[str]:
    """The states of a step's checks."""
    return [check.state for check in result.steps[number - 1].checks]
