"""Records of a folder, and whose they are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llm_numba.bench.record import SCHEMA, read_json
from llm_numba.errors import LLMNumbaError

# Beside the records: how the bundled model was trained, which says nothing of a machine's speed.
_OTHERS = {"storyteller_training.json"}
_REMEDY = "Take it out of the folder, or make it anew with llm-numba bench."


@dataclass(frozen=True)
class Record:
    """A record and where it is.

    Attributes
    ----------
    path : Path
    data : dict
        What :func:`llm_numba.bench.record.make_record` made.
    """

    path: Path
    data: dict[str, Any]

    @property
    def benchmark(self) -> str:
        """Its benchmark: "kernels"."""
        return self.data["benchmark"]

    @property
    def machine(self) -> str:
        """Its machine, as :func:`machine_of` calls it."""
        return machine_of(self.data["environment"])

    @property
    def date(self) -> datetime:
        """When it was made."""
        return datetime.fromisoformat(self.data["date"])


def machine_of(environment: Mapping[str, Any]) -> str:
    """Return what a machine is called: its first GPU's name, or its processor and its cores.

    Parameters
    ----------
    environment : mapping
        As of :func:`llm_numba.bench.environment.capture_environment`.
    """
    for gpu in gpus_of(environment):
        return gpu["name"]
    return f"{environment['device']['name']}, {environment['device']['cores']} cores"


def gpus_of(environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a machine's GPUs; none of a record from before they were asked for.

    Parameters
    ----------
    environment : mapping
    """
    return environment.get("gpus", [])


def read_folder(folder: Path) -> list[Record]:
    """Read all records of a folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Record
        By the names of their files.

    Raises
    ------
    LLMNumbaError
        If there is no such folder; or, with its name, if a JSON file cannot be read, is cut off,
        or is no record.
    """
    if not folder.is_dir():
        raise LLMNumbaError(f"There is no folder {folder}.", "Name one with --results.")
    return [_read(path) for path in sorted(folder.glob("*.json")) if path.name not in _OTHERS]


def _read(path: Path) -> Record:
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise LLMNumbaError(
            f"{path} is no record: it does not say that its schema is {SCHEMA}.", _REMEDY
        )
    record = Record(path, data)
    with blaming(record):
        words = [record.benchmark, record.machine, *data["command"]]
        if not all(isinstance(word, str) for word in words):
            raise TypeError("what should be text is none")
        if record.date.tzinfo is None:
            raise ValueError("its date names no zone")
    return record


@contextmanager
def blaming(record: Record) -> Iterator[None]:
    """Name a record's file if it is not what it should be.

    Parameters
    ----------
    record : Record

    Raises
    ------
    LLMNumbaError
        In place of what went wrong within.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as wrong:
        what = f"it has no {wrong}" if isinstance(wrong, KeyError) else str(wrong)
        kind = record.data.get("benchmark")
        raise LLMNumbaError(f"{record.path} is no record of {kind!r}: {what}.", _REMEDY) from wrong


def machines(records: Sequence[Record]) -> list[str]:
    """Return the machines that there are records of, in alphabetical order.

    Parameters
    ----------
    records : sequence of Record
    """
    return sorted({record.machine for record in records})


def find_machines(records: Sequence[Record], wanted: str | None, this: str) -> list[str]:
    """Return the machines that a report is asked for.

    Parameters
    ----------
    records : sequence of Record
    wanted : str or None
        A part of a name, in any case; "all"; None is the machine that asks.
    this : str
        That machine.

    Raises
    ------
    LLMNumbaError
        If there is none of that name, or there are several.
    """
    known = machines(records)
    if wanted is None:
        return [this]
    if wanted == "all":
        return [this, *(each for each in known if each != this)] if this in known else known
    exact = [each for each in known if each.lower() == wanted.lower()]
    found = exact or [each for each in known if wanted.lower() in each.lower()]
    if len(found) != 1:
        names = "; ".join(found or known) or "none at all"
        raise LLMNumbaError(
            f"--device {wanted} names {'several machines' if found else 'no machine'}.",
            f"There are records of: {names}.",
        )
    return found
