"""``llm-numba bench sanitizer``: what compute-sanitizer found in the GPU tests, as a record.

``make test-sanitizer TOOL=memcheck LOGS=DIR`` runs the tests under one of its tools and leaves the
log of all its processes, and a JUnit file, in a folder. *memcheck* looks for accesses outside of
allocations, *racecheck* for hazards in shared memory, *initcheck* for reads of memory that nobody
wrote, *synccheck* for wrong barriers.

Source: "Compute Sanitizer" documentation, NVIDIA.
"""

import re
from pathlib import Path
from typing import Any

from llm_numba.bench.gpu_tests import read_junit
from llm_numba.bench.record import provenance, read_text
from llm_numba.errors import LLMNumbaError

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
LOG_PATTERN = "*.log"
JUNIT_NAME = "junit.xml"
ALL_TESTS = "make test-sanitizer"

_ERRORS = re.compile(r"^=+ ERROR SUMMARY: (\d+) error", re.MULTILINE)
_HAZARDS = re.compile(r"^=+ RACECHECK SUMMARY: (\d+) hazards? displayed", re.MULTILINE)
# What a finding begins with, one line each.
_FINDING = re.compile(r"^=+ ((?:Invalid|Error|Warning|Uninitialized|Barrier|Program hit).*)$", re.M)
_MOST_FINDINGS = 20


def read_run(folder: Path) -> dict[str, Any]:
    """Read what one tool found.

    Parameters
    ----------
    folder : Path
        Logs, ``*.log``, one of each run of the tool, and ``junit.xml``.

    Returns
    -------
    dict
        ``findings`` (a count), ``first`` (up to twenty of them), ``logs``, and the ``tests``
        that ran, as :func:`~llm_numba.bench.gpu_tests.read_junit` counts them.

    Raises
    ------
    LLMNumbaError
        If there is no log, or one was cut short.
    """
    found, first, logs = 0, [], 0
    for path in sorted(folder.glob(LOG_PATTERN)):
        text = read_text(path)
        counts = _ERRORS.findall(text) + _HAZARDS.findall(text)
        if not counts:
            raise LLMNumbaError(
                f"{path} has no summary: the tool did not come to its end.",
                "Run make test-sanitizer again, into an empty folder.",
            )
        found += sum(map(int, counts))
        first += _FINDING.findall(text)
        logs += 1
    if not logs:
        raise LLMNumbaError(
            f"{folder} has no log of compute-sanitizer.", "Run make test-sanitizer LOGS=DIR first."
        )
    tests = read_junit(folder / JUNIT_NAME)["totals"]
    return {
        "findings": found,
        "first": first[:_MOST_FINDINGS],
        "logs": logs,
        "tests": tests,
    }


def record_of(
    folders: dict[str, Path], commit: str | None = None, tests: str = ALL_TESTS
) -> dict[str, Any]:
    """Make the record of some tools' runs.

    Parameters
    ----------
    folders : dict of str to Path
        By tool, as of :func:`read_run`.
    commit : str, optional
        What was tested, for a copy of the checkout without git.
    tests : str
        Which of the tests ran.
    """
    results = [{"name": tool} | read_run(folder) for tool, folder in folders.items()]
    return provenance("sanitizer", {"tests": tests}, commit) | {"results": results}
