"""Tables of links, made from records of ``llm-numba bench comm --gpus``.

Engines take them to choose what carries an array (:mod:`llm_numba.parallel.measured`), plans to say
how long it takes.
"""

from collections.abc import Sequence
from pathlib import Path

from llm_numba.bench.record import read_record
from llm_numba.parallel.measured import MachineKind, TimesTable, packaged_tables
from llm_numba.parallel.selection import read_times
from llm_numba.planner.collectives import LinkTable
from llm_numba.planner.gpus import GPUS

# Records of several paths; those of one alone have its name behind.
_RECORDS = "comm_*-ranks.json"


def tables_of(directory: Path) -> dict[str, TimesTable]:
    """Make a table of each record that knows what machine it is of.

    Parameters
    ----------
    directory : Path
        ``docs/results`` of a checkout.

    Returns
    -------
    dict of str to TimesTable
        By the name of the table's file.
    """
    tables = {}
    for path in sorted(directory.glob(_RECORDS)):
        record = read_record(path)
        kind = MachineKind(
            **record["settings"].get("machine", {"gpu": "", "ranks": 0, "links": ""})
        )
        if kind.is_known:
            source = {
                "file": path.name,
                "date": record["date"],
                "commit": (record["environment"]["git"] or {}).get("commit", ""),
            }
            name = path.name.removeprefix("comm_")
            tables[name] = TimesTable(kind, source, read_times(path, kind.ranks))
    return tables


def packaged_links(tables: Sequence[TimesTable] | None = None) -> dict[str, LinkTable]:
    """Return what was measured of the links that plans know.

    A link is the same whatever the GPUs at its ends; so what was measured between two H200s holds
    between H100s, which have the same NVLink.

    Parameters
    ----------
    tables : sequence of TimesTable, optional
        By default those that come with the package.

    Returns
    -------
    dict of str to LinkTable
        By the link's name, see :data:`llm_numba.planner.gpus.LINKS`.
    """
    found: dict[str, LinkTable] = {}
    for table in packaged_tables() if tables is None else tables:
        for gpu in GPUS.values():
            kind = gpu.inside.partition("-")[0]
            if gpu.driver_name == table.kind.gpu and table.kind.links.startswith(kind):
                measured = LinkTable.from_times(table)
                others = found.get(gpu.inside)
                found[gpu.inside] = measured if others is None else others.joined(measured)
    return found
