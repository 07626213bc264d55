"""Measured times that come with the package, and the kinds of machine that they hold for.

What is fastest between two GPUs depends on the GPUs, on what joins them, and on how many ranks take
part. A table is taken only where all three are as they were when it was measured.
``python -m llm_numba.planner`` makes the tables, from records of ``llm-numba bench comm --gpus``.
"""

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_numba.parallel.selection import Times
from llm_numba.runtime.gpu_links import gpu_link, gpu_name

TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class MachineKind:
    """What times of exchanges depend on.

    Attributes
    ----------
    gpu : str
        What the driver calls the GPUs; "" if they differ or the driver does not say.
    ranks : int
    links : str
        What joins them, see :class:`llm_numba.runtime.gpu_links.GPULink`; several kinds with a +
        between; "" if the driver does not say.
    """

    gpu: str
    ranks: int
    links: str

    @property
    def is_known(self) -> bool:
        """Whether there can be a table of it."""
        return bool(self.gpu and self.links)

    def __str__(self) -> str:
        """Return it as it stands in a sentence."""
        return f"{self.ranks} ranks on {self.gpu}, joined by {self.links}"


@dataclass(frozen=True)
class TimesTable:
    """What was measured on a kind of machine.

    Attributes
    ----------
    kind : MachineKind
    source : dict of str to str
        The record: file, date and commit.
    times : Times
    """

    kind: MachineKind
    source: dict[str, str]
    times: Times

    def to_json(self) -> dict[str, Any]:
        """Return the table as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TimesTable":
        """Return the table that :meth:`to_json` wrote.

        Parameters
        ----------
        values : dict
        """
        times = {
            operation: {path: [tuple(point) for point in points] for path, points in paths.items()}
            for operation, paths in values["times"].items()
        }
        return cls(MachineKind(**values["kind"]), values["source"], times)


def kind_of_machine(gpus: Sequence[str]) -> MachineKind:
    """Say on what kind of machine some ranks are.

    Parameters
    ----------
    gpus : sequence of str
        Identifiers of their GPUs.

    Returns
    -------
    MachineKind
    """
    names = {gpu_name(each) for each in gpus}
    links = [gpu_link(*pair) for pair in itertools.combinations(gpus, 2)]
    kinds = sorted({link.kind if link else "" for link in links})
    return MachineKind(
        gpu=names.pop() if len(names) == 1 else "",
        ranks=len(gpus),
        links="" if "" in kinds else "+".join(kinds),
    )


@functools.cache
def packaged_tables() -> tuple[TimesTable, ...]:
    """Return all tables that come with the package, in the order of their files' names."""
    return tuple(
        TimesTable.from_json(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(TABLES.glob("*.json"))
    )


def find_table(kind: MachineKind) -> TimesTable | None:
    """Return the packaged table of a kind of machine, or None if there is none.

    Parameters
    ----------
    kind : MachineKind
    """
    return next((each for each in packaged_tables() if each.kind == kind), None)
