"""Run a lab's checks on a file, and keep the score."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np

from grader.channel import ClosedError
from grader.children import Children
from grader.costs import Raced
from grader.lab import Check, Lab, LabError, Step
from grader.rules import breaches, unwritten_steps
from grader.student import Student
from grader.submission import Submission
from grader.verdict import Failed

State = Literal["passed", "failed", "not written", "not tried", "skipped"]
# The data of `make lab`; an instructor's key draws other data.
PUBLIC_KEY = "public"


@dataclass
class CheckResult:
    """How one check went.

    Attributes
    ----------
    title : str
    state : {"passed", "failed", "not written", "not tried", "skipped"}
    possible : int
        Points that the check is worth.
    message : str
        Why it is not passed.
    line : int
        Of the student's file, or 0.
    raced : Raced or None
        What was timed.
    float64 : set of int
        Lines of kernels that compute in float64. It costs no points.
    """

    title: str
    state: State
    possible: int
    message: str = ""
    line: int = 0
    raced: Raced | None = None
    float64: set[int] = field(default_factory=set)

    @property
    def points(self) -> int:
        """Points that were earned."""
        return self.possible if self.state == "passed" else 0


@dataclass
class StepResult:
    """How one step went.

    Attributes
    ----------
    number : int
    title : str
    checks : list of CheckResult
    """

    number: int
    title: str
    checks: list[CheckResult] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The state of the first check that is not passed, or ``"passed"``."""
        states = [check.state for check in self.checks if check.state != "skipped"]
        return next((state for state in states if state != "passed"), "passed")

    @property
    def trouble(self) -> CheckResult | None:
        """The check that the student should look at, if there is one."""
        bad = ("failed", "not written")
        return next((check for check in self.checks if check.state in bad), None)


@dataclass
class LabResult:
    """How a lab went.

    Attributes
    ----------
    lab : Lab
    path : Path
        The student's file.
    steps : list of StepResult
    refused : list of str
        Why nothing was run: what the rules do not allow, or broken Python.
    printed : str
        What the student's program printed in the check that failed.
    broken : bool
        Whether the file is no Python at all.
    not_run : list of str
        What the lab has beside its checks, and this run has not: "by mpirun: ...".
    """

    lab: Lab
    path: Path
    steps: list[StepResult] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    printed: str = ""
    broken: bool = False
    not_run: list[str] = field(default_factory=list)

    @property
    def points(self) -> int:
        """Points that were earned."""
        return sum(check.points for step in self.steps for check in step.checks)

    @property
    def possible(self) -> int:
        """Points of all checks that were not skipped."""
        checks = [check for step in self.steps for check in step.checks]
        return sum(check.possible for check in checks if check.state != "skipped")

    @property
    def passed(self) -> bool:
        """Whether all steps are done."""
        return not self.refused and all(step.state == "passed" for step in self.steps)

    @property
    def float64(self) -> list[int]:
        """Lines of kernels that compute in float64."""
        found = [check.float64 for step in self.steps for check in step.checks]
        return sorted(set().union(*found))

    @property
    def current(self) -> StepResult | None:
        """The first step that is not done."""
        return next((step for step in self.steps if step.state != "passed"), None)


def run_lab(
    lab: Lab,
    path: Path,
    children: Children,
    *,
    key: str = PUBLIC_KEY,
    stop: bool = False,
    gpu: bool = False,
) -> LabResult:
    """Run all checks of a lab on a file.

    Parameters
    ----------
    lab : Lab
    path : Path
    children : Children
    key : str
        Seeds the data.
    stop : bool
        Whether to leave the steps behind the first unfinished one untried.
    gpu : bool
        Whether to run the checks that need a GPU, too.

    Returns
    -------
    LabResult

    Raises
    ------
    LabError
        If the file cannot be read.
    """
    try:
        # Editors of Windows put a mark before the text, which Python takes for no mistake.
        source = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or "it is no text"
        raise LabError(f"{path} cannot be read: {reason}.", "Name a Python file.") from None
    result = LabResult(lab, path)
    try:
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as failure:
        line = getattr(failure, "lineno", None)
        where = f"line {line}: " if line else ""
        result.broken = True
        result.refused = [f"{where}this is not Python: {getattr(failure, 'msg', failure)}."]
    else:
        found = breaches(tree, lab.imports)
        result.refused = [f"line {breach.line}: {breach.message}" for breach in found]
    if result.refused:
        result.steps = [untried(step) for step in lab.steps]
        return result
    no_gpu = _why_no_gpu(lab, children, gpu)
    result.not_run = list(_left_out(lab, children, gpu))
    submission = Submission(path, source, tree, lab.imports, lab.seconds)
    unwritten = unwritten_steps(tree)
    for step in lab.steps:
        if stop and result.current is not None:
            result.steps.append(untried(step, no_gpu))
            continue
        result.steps.append(StepResult(step.number, step.title))
        if step.number in unwritten:
            result.steps[-1].checks = _not_written(step, unwritten[step.number], no_gpu)
            continue
        for check, printed in _checks(lab, step, submission, children, key, no_gpu):
            result.steps[-1].checks.append(check)
            if check.state == "failed":
                result.printed = printed
    return result


def _why_no_gpu(lab: Lab, children: Children, wanted: bool) -> str:
    """Say why checks on a GPU are skipped; empty if they run."""
    if not any(check.gpu for step in lab.steps for check in step.checks):
        return ""
    if not wanted:
        return f"needs a GPU: make lab LAB={lab.number} GPU=1"
    problem = children.gpu_problem()
    return f"no GPU here: {problem}" if problem else ""


def _left_out(lab: Lab, children: Children, gpu: bool) -> Iterator[str]:
    """Say what else could run, or might be thought to have run."""
    if lab.ranks and not children.mpirun:
        yield f"by mpirun: make lab LAB={lab.number} MPI=1"
    if lab.ranks and gpu:
        yield "on GPUs: the ranks of this lab send arrays of the host, however many GPUs there are"


def untried(step: Step, no_gpu: str = "no GPU was asked for") -> StepResult:
    """Return the result of a step that nothing was run of.

    Parameters
    ----------
    step : Step
    no_gpu : str
        Why its checks on a GPU would be skipped, if they would.
    """
    results = [_unless_skipped(each, no_gpu, "not tried") for each in step.checks]
    return StepResult(step.number, step.title, results)


def _not_written(step: Step, line: int, no_gpu: str) -> list[CheckResult]:
    message = f"Step {step.number} is not written yet: line {line} raises NotImplementedError."
    return [_unless_skipped(each, no_gpu, "not written", message, line) for each in step.checks]


def _unless_skipped(
    check: Check, no_gpu: str, state: State, message: str = "", line: int = 0
) -> CheckResult:
    if check.gpu and no_gpu:
        return CheckResult(check.title, "skipped", check.points, no_gpu)
    return CheckResult(check.title, state, check.points, message, line)


def _checks(
    lab: Lab, step: Step, submission: Submission, children: Children, key: str, no_gpu: str
) -> Iterator[tuple[CheckResult, str]]:
    failed = False
    for check in step.checks:
        if failed or (check.gpu and no_gpu):
            yield _unless_skipped(check, no_gpu, "not tried"), ""
            continue
        result, printed = run_check(lab, step, check, submission, children, key)
        failed = result.state == "failed"
        yield result, printed


def run_check(
    lab: Lab, step: Step, check: Check, submission: Submission, children: Children, key: str
) -> tuple[CheckResult, str]:
    """Run one check, whatever became of those before it.

    Parameters
    ----------
    lab, step, check
        The check, and whose it is.
    submission : Submission
    children : Children
    key : str
        Seeds the data.

    Returns
    -------
    result : CheckResult
    printed : str
        What the student's program printed.
    """
    student = Student(submission, children)
    result = _one(check, student, rng_for(key, lab.number, step.number, check.title))
    student.end()
    result.raced, result.float64 = student.raced, student.float64
    return result, student.printed


def _one(check: Check, student: Student, rng: np.random.Generator) -> CheckResult:
    try:
        check.run(student, rng)
    except Failed as failure:
        return CheckResult(check.title, "failed", check.points, str(failure), failure.line)
    except ClosedError:
        message = "Your program broke off the conversation with the grader."
        return CheckResult(check.title, "failed", check.points, message)
    except (TypeError, ValueError, LookupError, AttributeError) as failure:
        # A check takes apart what it gets; a function without `return` gives None.
        message = f"{student.told}: that is not what its docstring promises ({failure})."
        return CheckResult(check.title, "failed", check.points, message)
    return CheckResult(check.title, "passed", check.points)


def rng_for(key: str, lab: int, step: int, title: str) -> np.random.Generator:
    """Return the source of a check's data: another for each key and check, always the same."""
    digest = blake2b(f"{key}\n{lab}\n{step}\n{title}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
