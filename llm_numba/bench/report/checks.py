"""What was checked on a machine, a line each: tests, sanitizers, counters, labs, recall."""

from collections.abc import Iterator, Sequence
from typing import Any

from llm_numba.bench.report.archive import Record, blaming
from llm_numba.bench.report.page import Block
from llm_numba.bench.tables import Table


def _gpu_tests(data: dict[str, Any]) -> str:
    totals = data["totals"]
    return ", ".join(f"{totals[kind]} {kind}" for kind in totals if kind != "seconds")


def _sanitizer(data: dict[str, Any]) -> str:
    told = (f"{each['name']} {each['findings']} findings in {each['tests']['passed']} tests"
            for each in data["results"])  # fmt: skip
    return ", ".join(told)


def _counters(data: dict[str, Any]) -> str:
    return ", ".join(f"{count} counters {kind}" for kind, count in data["summary"].items())


def _labs(data: dict[str, Any]) -> str:
    passed = sum(each["passed"] for each in data["labs"])
    return f"{passed} of {len(data['labs'])} solutions get all points"


def _recall(data: dict[str, Any]) -> str:
    settings = data["settings"]
    return f"recall {data['accuracy']:.2%}, {settings['dtype']} on {settings['device']}"


_WORDS = {
    "gpu_tests": _gpu_tests,
    "sanitizer": _sanitizer,
    "simulator_counters": _counters,
    "labs": _labs,
    "eval": _recall,
}
# Each with the command that makes its record.
CHECKS = {
    "gpu_tests": "llm-numba bench gpu-tests --junit FILE.xml",
    "sanitizer": "llm-numba bench sanitizer --logs FOLDER",
    "simulator_counters": "llm-numba bench counters",
    "labs": "llm-numba bench labs",
    "eval": "llm-numba eval --device cuda --out FILE.json",
}


def checks(records: Sequence[Record]) -> Iterator[Block]:
    """Return a row for each record.

    Parameters
    ----------
    records : sequence of Record
        Of the benchmarks in `CHECKS`.

    Yields
    ------
    Block
    """
    rows = []
    for record in records:
        with blaming(record):
            told = _WORDS[record.benchmark](record.data)
            rows.append([record.path.name, told, record.data["date"][:10]])
    yield Table(["record", "found", "on"], rows, words=True)
