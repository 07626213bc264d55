"""All races of the labs on this machine's GPU: the solutions, and what is right but too slow.

A lab's bound on time is worth something if its solution keeps it with room to spare, and if a
program that computes the same in a worse way does not. Both are shown here, on one GPU. A wrong
version takes part if it says so: ``# Too slow: step 4``; or ``# Raced: step 4``, if a GPU does not
mind what the simulator counts.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grader.children import Children
from grader.grades import write_whole
from grader.lab import Check, Lab, LabError, Step
from grader.mistakes import planted
from grader.run import PUBLIC_KEY, CheckResult, LabResult, run_check, run_lab
from grader.submission import Submission

SOLUTION = "solution"
_SLOW = re.compile(r"^# (Too slow|Raced): step (\d+)$", flags=re.MULTILINE)


def raced_versions(lab: Lab) -> dict[str, tuple[Path, int, bool]]:
    """Return a lab's wrong versions that are raced: where, in which step, and if they are too slow.

    Parameters
    ----------
    lab : Lab
    """
    found = {}
    for path in sorted((lab.folder / "wrong").glob("*.py")):
        if slow := _SLOW.search(path.read_text()):
            found[path.stem] = (path, int(slow[2]), slow[1] == "Too slow")
    return found


def races_of(lab: Lab) -> list[tuple[Step, Check]]:
    """Return a lab's checks that need a GPU, each with its step.

    Parameters
    ----------
    lab : Lab
    """
    return [(step, check) for step in lab.steps for check in step.checks if check.gpu]


def race(lab: Lab, children: Children) -> Iterator[dict[str, Any]]:
    """Race a lab's solution and its slow versions, whatever the simulator says of them.

    Parameters
    ----------
    lab : Lab
    children : Children

    Yields
    ------
    dict
        ``lab``, ``step``, ``check``, ``version``, ``too_slow`` (whether it should fail), ``state``,
        ``message``; ``against``, ``rounds``
        (pairs of seconds, theirs and ours) and ``bound``, if it came to a race.
    """
    for step, check in races_of(lab):
        programs = {SOLUTION: ((lab.folder / "solution.py").read_text(), False)}
        programs |= {
            name: (planted(path), slow)
            for name, (path, number, slow) in raced_versions(lab).items()
            if number == step.number
        }
        for name, (program, slow) in programs.items():
            path = lab.folder / f"{name}.py"
            of = Submission(path, program, ast.parse(program), lab.imports, lab.seconds)
            result, _ = run_check(lab, step, check, of, children, PUBLIC_KEY)
            yield _entry(lab, step, name, result) | {"too_slow": slow}


def _entry(lab: Lab, step: Step, version: str, result: CheckResult) -> dict[str, Any]:
    entry = {"lab": lab.number, "step": step.number, "check": result.title, "version": version,
             "state": result.state, "message": result.message}  # fmt: skip
    if raced := result.raced:
        entry |= {"against": raced.against, "rounds": raced.rounds, "bound": raced.bound}
    return entry


def grades(lab: Lab, children: Children) -> dict[str, Any]:
    """Run all checks of a lab on its solution, those on a GPU too.

    Parameters
    ----------
    lab : Lab
    children : Children

    Returns
    -------
    dict
        ``lab``, ``title``, ``points``, ``possible``, ``passed``, ``not_run``, and ``failed``: what
        went wrong.
    """
    result = run_lab(lab, lab.folder / "solution.py", children, gpu=True)
    return {
        "lab": lab.number,
        "title": lab.title,
        "points": result.points,
        "possible": result.possible,
        "passed": result.passed,
        "not_run": result.not_run,
        "failed": _failed(result),
    }


def _failed(result: LabResult) -> list[str]:
    checks = [(step, check) for step in result.steps for check in step.checks]
    return result.refused + [
        f"step {step.number}, {check.title}: {check.message}"
        for step, check in checks
        if check.state == "failed"
    ]


def require_gpu(children: Children) -> None:
    """Fail if there is no GPU.

    Parameters
    ----------
    children : Children

    Raises
    ------
    LabError
    """
    if problem := children.gpu_problem():
        raise LabError(
            f"The labs cannot be raced here: {problem}", "Run this on a node with a GPU."
        )


def write_races(
    path: Path, graded: Sequence[dict[str, Any]], raced: Sequence[dict[str, Any]]
) -> None:
    """Write what :func:`grades` and :func:`race` found as JSON.

    Parameters
    ----------
    path : Path
    graded, raced : sequence of dict
    """
    write_whole(path, json.dumps({"labs": graded, "races": raced}, indent=1) + "\n")
