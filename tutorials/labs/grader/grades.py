"""Grade one student or a whole course, and write the points for a course's system."""

import json
import os
from errno import EISDIR
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from xml.etree import ElementTree

from grader.children import Children
from grader.lab import Lab, LabError
from grader.run import LabResult, run_lab, untried

FORMAT = "llm_numba.labs/1"


def grade(
    labs: list[Lab], folder: Path | None, children: Children, key: str, *, gpu: bool = False
) -> dict[str, list[LabResult]]:
    """Grade labs of one or many students.

    Parameters
    ----------
    labs : list of Lab
    folder : Path or None
        Holds a folder for each student; in that, ``lab01.py`` or ``lab01_.../exercise.py`` for
        each lab. None grades the exercises in place, as those of student ``"me"``.
    children : Children
    key : str
        Seeds the data.
    gpu : bool
        Whether to run the checks that need a GPU, too.

    Returns
    -------
    dict of str to list of LabResult
        By student, in the order of `labs`.

    Raises
    ------
    LabError
        If there is no such folder, or nobody in it.
    """
    if folder is None:
        return {"me": [run_lab(lab, lab.exercise, children, key=key, gpu=gpu) for lab in labs]}
    if not folder.is_dir():
        raise LabError(f"There is no folder {folder}.", "Name one with a folder for each student.")
    # A folder of submissions may be a clone: .git is nobody.
    students = sorted(
        each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")
    )
    if not students:
        raise LabError(
            f"There are no folders in {folder}.", "It must hold a folder for each student."
        )
    return {
        student.name: [_one(lab, student, children, key, gpu) for lab in labs]
        for student in students
    }


def _one(lab: Lab, student: Path, children: Children, key: str, gpu: bool) -> LabResult:
    number = f"lab{lab.number:02}"
    candidates = [
        student / f"{number}.py",
        student / lab.folder.name / "exercise.py",
        student / number / "exercise.py",
    ]
    for path in candidates:
        if path.is_file():
            try:
                return run_lab(lab, path, children, key=key, gpu=gpu)
            except LabError as failure:
                return _nothing(lab, path, str(failure))
    return _nothing(lab, candidates[0], "not handed in")


def _nothing(lab: Lab, path: Path, why: str) -> LabResult:
    return LabResult(lab, path, [untried(step) for step in lab.steps], [why])


def as_data(results: dict[str, list[LabResult]], hidden: bool) -> dict[str, Any]:
    """Turn results into what the JSON file holds.

    Parameters
    ----------
    results : dict of str to list of LabResult
    hidden : bool
        Whether a key drew the data.
    """
    return {
        "format": FORMAT,
        "hidden_data": hidden,
        "students": [
            {
                "student": student,
                "points": sum(result.points for result in labs),
                "possible": sum(result.possible for result in labs),
                "labs": [_lab_data(result) for result in labs],
            }
            for student, labs in results.items()
        ],
    }


def _lab_data(result: LabResult) -> dict[str, Any]:
    return {
        "lab": result.lab.number,
        "title": result.lab.title,
        "file": str(result.path),
        "points": result.points,
        "possible": result.possible,
        "refused": result.refused,
        "not_run": result.not_run,
        "steps": [
            {
                "step": step.number,
                "title": step.title,
                "state": step.state,
                "points": sum(check.points for check in step.checks),
                "possible": sum(c.possible for c in step.checks if c.state != "skipped"),
                "checks": [
                    {
                        "check": check.title,
                        "state": check.state,
                        "points": check.points,
                        "possible": check.possible,
                        "line": check.line or None,
                        "message": check.message,
                        "ratio": check.raced.ratio if check.raced else None,
                    }
                    for check in step.checks
                ],
            }
            for step in result.steps
        ],
    }


def write_json(path: Path, results: dict[str, list[LabResult]], *, hidden: bool) -> None:
    """Write points as JSON.

    Parameters
    ----------
    path : Path
    results : dict of str to list of LabResult
    hidden : bool
        Whether a key drew the data.
    """
    write_whole(path, json.dumps(as_data(results, hidden), indent=2) + "\n")


def write_junit(path: Path, results: dict[str, list[LabResult]]) -> None:
    """Write points as JUnit XML: a suite for each student and lab, a case for each check.

    Parameters
    ----------
    path : Path
    results : dict of str to list of LabResult
    """
    root = ElementTree.Element("testsuites")
    for student, labs in results.items():
        for result in labs:
            _suite(root, student, result)
    write_whole(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True))


def _suite(root: ElementTree.Element, student: str, result: LabResult) -> None:
    name = f"{_printable(student)}.lab{result.lab.number:02}"
    cases = [(step, check) for step in result.steps for check in step.checks]
    failed = [check for _, check in cases if check.state in ("failed", "not written")]
    skipped = [check for _, check in cases if check.state in ("not tried", "skipped")]
    suite = ElementTree.SubElement(
        root, "testsuite", name=name, tests=str(len(cases)), failures=str(len(failed)),
        skipped=str(len(skipped)), errors="0",
    )  # fmt: skip
    for step, check in cases:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"{name}.step{step.number}", name=check.title
        )
        if check.state in ("failed", "not written"):
            message = _printable(check.message)
            fault = ElementTree.SubElement(case, "failure", message=message.splitlines()[0])
            fault.text = message
        elif check.state != "passed":
            reason = check.message or "; ".join(result.refused) or "an earlier check failed"
            ElementTree.SubElement(case, "skipped", message=_printable(reason))


def _printable(text: str) -> str:
    """Leave out what XML cannot hold."""
    return "".join(each for each in text if each in "\n\t" or each.isprintable()) or "no message"


def require_writable(path: Path) -> None:
    """Find out before a course is graded whether its points can be written.

    Parameters
    ----------
    path : Path

    Raises
    ------
    LabError
        If they cannot.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as failure:
        raise _unwritable(path, failure) from None


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Parameters
    ----------
    path : Path
    text : str

    Raises
    ------
    LabError
        If it cannot be written.
    """
    try:
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as failure:
        raise _unwritable(path, failure) from None


def _unwritable(path: Path, failure: OSError) -> LabError:
    return LabError(
        f"{path} cannot be written: {failure.strerror}.", "Name a file in a folder that exists."
    )
