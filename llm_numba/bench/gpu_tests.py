"""``llm-numba bench gpu-tests``: what the tests did on a GPU, as a record.

``make test-gpu JUNIT=FILE.xml`` leaves a JUnit file. The record says how many tests of each file
passed, failed and were skipped, and why those; beside them stand GPU, driver and packages.
"""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

from llm_numba.bench.record import provenance
from llm_numba.errors import LLMNumbaError

OUTCOMES = ("passed", "failed", "errors", "skipped")


def read_junit(path: Path) -> dict[str, Any]:
    """Count the outcomes in a JUnit file.

    Parameters
    ----------
    path : Path
        As ``pytest --junitxml`` writes it.

    Returns
    -------
    dict
        ``started`` (a date), ``totals`` (a count for each of `OUTCOMES`, and ``seconds``),
        ``results`` (the same for each test file, with its ``name``), and ``skipped_because`` (how
        often each reason was given).

    Raises
    ------
    LLMNumbaError
        If the file is none, or says that no test passed.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as failure:
        raise LLMNumbaError(
            f"{path} cannot be read: {failure.strerror}.", "Run make test-gpu JUNIT=FILE.xml first."
        ) from failure
    except ElementTree.ParseError as failure:
        raise LLMNumbaError(
            f"{path} is no XML: {failure}.", "Give the file that pytest --junitxml wrote."
        ) from failure
    files: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for case in root.iter("testcase"):
        name = _file(case.get("classname", ""))
        files.setdefault(name, Counter())[_outcome(case)] += 1
        seconds[name] += float(case.get("time", 0))
        reasons.update(skipped.get("message", "") for skipped in case.iter("skipped"))
    totals = sum(files.values(), Counter())
    if not totals["passed"]:
        raise LLMNumbaError(
            f"{path} has no test that passed: {dict(totals)}.",
            "Run make test-gpu on a machine with a GPU; a run without one is no record.",
        )
    suite = next(root.iter("testsuite"), root)
    return {
        "started": suite.get("timestamp"),
        "totals": _row(totals, seconds.total()),
        "results": [{"name": name} | _row(files[name], seconds[name]) for name in sorted(files)],
        "skipped_because": dict(sorted(reasons.items())),
    }


def record_of(path: Path, commit: str | None = None) -> dict[str, Any]:
    """Make the record of a JUnit file.

    Parameters
    ----------
    path : Path
        As for :func:`read_junit`.
    commit : str, optional
        What was tested, for a copy of the checkout without git.
    """
    counts = read_junit(path)
    return provenance("gpu_tests", {"tests": "make test-gpu"}, commit) | counts


def _file(classname: str) -> str:
    """Return the test file: pytest writes its dotted name, and the names of classes behind it."""
    parts = classname.split(".")
    last = next((i for i, part in enumerate(parts) if part.startswith("test_")), len(parts) - 1)
    return "/".join(parts[: last + 1]) + ".py"


def _outcome(case: ElementTree.Element) -> str:
    tags = {child.tag for child in case}
    for tag, outcome in (("error", "errors"), ("failure", "failed"), ("skipped", "skipped")):
        if tag in tags:
            return outcome
    return "passed"


def _row(counts: Counter[str], seconds: float) -> dict[str, Any]:
    return {outcome: counts[outcome] for outcome in OUTCOMES} | {"seconds": round(seconds, 3)}
