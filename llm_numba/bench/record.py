"""The benchmark record: one JSON file that says what was measured, where, when and how.

::

    {"schema": 1, "benchmark": "cpu", "command": [...], "date": "2030-01-31T12:00:00+00:00",
     "environment": {...},                          what it ran on, see environment.py
     "settings": {...},                             shapes and counts
     "results": [{"name": "decode/batch=1", "what": "...", "shape": {...},
                  "unit": "tokens/s", "median": 1.0, "p10": 1.0, "p90": 1.0, "n": 5, "warmup": 1,
                  "target": {"at_least": 300.0}}],  `target` only where there is one
     "left_out": {"serving": "its time was up"},    only of what has a limit, see budget.py
     "renewed": [{"only": [...], ...}]}             what was measured again, see :func:`renew`

Plots and pages read these files; nobody types a figure from them.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import EISDIR
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from llm_numba.bench.environment import capture_environment, checkout, command_line
from llm_numba.bench.timing import Statistic
from llm_numba.errors import LLMNumbaError

SCHEMA = 1


@dataclass(frozen=True)
class Result:
    """One measured quantity of a record.

    Attributes
    ----------
    name : str
        A key that stays the same from run to run, ``"prefill/tokens=400"``.
    what : str
        What was measured, in a few words for a table.
    statistic : Statistic
        The figures.
    shape : dict
        Sizes that the figure depends on.
    at_least, at_most : float or None
        The target for the median, in the statistic's unit.
    """

    name: str
    what: str
    statistic: Statistic
    shape: dict[str, Any] = field(default_factory=dict)
    at_least: float | None = None
    at_most: float | None = None

    @property
    def meets_target(self) -> bool | None:
        """Whether the median meets the target; ``None`` where there is no target."""
        if self.at_least is not None:
            return self.statistic.median >= self.at_least
        if self.at_most is not None:
            return self.statistic.median <= self.at_most
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        entry = {"name": self.name, "what": self.what, "shape": self.shape}
        entry |= self.statistic.to_json()
        if self.at_least is not None:
            entry["target"] = {"at_least": self.at_least}
        elif self.at_most is not None:
            entry["target"] = {"at_most": self.at_most}
        return entry


def make_record(
    benchmark: str,
    settings: dict[str, Any],
    results: Iterable[Result],
    commit: str | None = None,
) -> dict[str, Any]:
    """Assemble a record, with the environment as it is now.

    Parameters
    ----------
    benchmark : str
        Name of the benchmark, the first word of its file's name.
    settings : dict
        Shapes and counts that hold for all results.
    results : iterable of Result
        What was measured.
    commit : str, optional
        What was run, for a copy of the checkout without git.
    """
    entries = [result.to_json() for result in results]
    return provenance(benchmark, settings, commit) | {"results": entries}


def provenance(
    benchmark: str, settings: dict[str, Any], commit: str | None = None
) -> dict[str, Any]:
    """Return all of a record but its results: what was run, where, when and how.

    Parameters
    ----------
    benchmark, settings, commit
        As for :func:`make_record`.
    """
    return {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": capture_environment(commit),
        "settings": settings,
    }


def renew(
    record: dict[str, Any], newer: dict[str, Any], only: Iterable[str], keep: Iterable[str] = ()
) -> dict[str, Any]:
    """Put the results of a later run of some of a benchmark into the record of all of it.

    The record keeps its date and commit, and says what is of the later run. Compare only what was
    measured in one: a later run of something brings all that it is held against.

    Parameters
    ----------
    record, newer : dict
        Of one benchmark, on machines alike.
    only : iterable of str
        What the later run was asked for.
    keep : iterable of str
        Names of results that stay as they were; the later run's are noted beside them.

    Returns
    -------
    dict
        A new record.

    Raises
    ------
    LLMNumbaError
        If the two were not made alike.
    """
    kept = set(keep)
    later = {each["name"]: each for each in newer["results"] if each["name"] not in kept}
    results = [later.pop(each["name"], each) for each in record["results"]]
    beside = {each["name"]: each for each in newer["results"] if each["name"] in kept}
    return with_results(record, newer, only, results + list(later.values()), {"kept": beside})


def with_results(
    record: dict[str, Any],
    newer: dict[str, Any],
    only: Iterable[str],
    results: list[dict[str, Any]],
    noted: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Give a record results of which some are of a later run, and note which.

    Parameters
    ----------
    record, newer, only
        As of :func:`renew`.
    results : list of dict
        All that the new record shall have.
    noted : dict, optional
        What else is noted of the later run.

    Returns
    -------
    dict
        A new record.

    Raises
    ------
    LLMNumbaError
        If the two were not made alike.
    """
    for name in ("gpus", "packages"):
        before, now = (each["environment"][name] for each in (record, newer))
        if before != now:
            raise LLMNumbaError(
                f"The record's {name} are not this machine's.",
                "Measure all of it here, without --into, or some of it there.",
            )
    note = {
        "only": list(only),
        "date": newer["date"],
        "commit": (newer["environment"]["git"] or {}).get("commit"),
        "command": newer["command"],
        "settings": newer["settings"],
    }
    return record | {
        "results": results,
        "renewed": [*record.get("renewed", ()), note | (noted or {})],
    }


def commit_of(record: dict[str, Any]) -> str:
    """Return the beginning of the commit that a record is of, and whether there were changes.

    Parameters
    ----------
    record : dict
    """
    git = record["environment"]["git"] or {}
    return (git.get("commit") or "unknown")[:12] + (" with changes" if git.get("dirty") else "")


def renewals(record: dict[str, Any]) -> str:
    """Say in Markdown what of a record was measured again; nothing where all is of one run.

    Parameters
    ----------
    record : dict
    """
    return "".join(
        f"; {', '.join(f'`{name}`' for name in each['only'])} measured again at commit "
        f"`{(each['commit'] or 'unknown')[:12]}`, {each['date'][:10]}"
        for each in record.get("renewed", ())
    )


def default_path(benchmark: str, *parts: str) -> Path:
    """Return where a benchmark's record goes: one file per benchmark and device.

    Parameters
    ----------
    benchmark, *parts : str
        The device, and more where there is a record for each: a model. All end up in the file's
        name, as lower-case words.

    Returns
    -------
    Path
        In ``docs/results`` of the checkout, or in the current directory of an installed package.
    """
    names = [re.sub(r"\((r|tm)\)", "", part.lower()) for part in parts]
    words = ["-".join(re.findall(r"[a-z0-9.]+", name)) for name in names]
    root = checkout()
    directory = root / "docs" / "results" if root else Path()
    return directory / f"{'_'.join([benchmark, *words])}.json"


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record.

    Parameters
    ----------
    path : Path
        See :func:`write_text`.
    record : dict
        A JSON object.
    """
    write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Parameters
    ----------
    path : Path
        A file that :func:`write_record` wrote.

    Raises
    ------
    LLMNumbaError
        If it cannot be read, or is none.
    """
    record = read_json(path)
    if not isinstance(record, dict) or "results" not in record:
        raise LLMNumbaError(f"{path} is no record.", "Name one of docs/results.")
    return record


def read_json(path: Path) -> Any:
    """Read a file of JSON.

    Parameters
    ----------
    path : Path

    Raises
    ------
    LLMNumbaError
        If it cannot be read, or is none, or ends in its middle.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as failure:
        raise LLMNumbaError(
            f"{path} is no record: {failure}.", "Name one of docs/results."
        ) from failure


def read_text(path: Path) -> str:
    """Read a file that the user named.

    Parameters
    ----------
    path : Path

    Raises
    ------
    LLMNumbaError
        If it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as failure:
        raise LLMNumbaError(
            f"{path} cannot be read: {failure.strerror}.", "Name a file that is there."
        ) from failure


def write_text(path: Path, text: str) -> None:
    """Write a file by rename: a reader finds the old one or the new one, never half of one.

    Parameters
    ----------
    path : Path
        The file; its directory is made where needed.
    text : str
        Its contents.

    Raises
    ------
    LLMNumbaError
        If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as failure:
        raise _unwritable(path, failure) from failure


def require_writable(path: Path) -> None:
    """Find out before long work whether its result can be written.

    Parameters
    ----------
    path : Path
        A file for :func:`write_text`.

    Raises
    ------
    LLMNumbaError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as failure:
        raise _unwritable(path, failure) from failure


def _unwritable(path: Path, failure: OSError) -> LLMNumbaError:
    return LLMNumbaError(f"{path} cannot be written: {failure.strerror}.", "Name another file.")
