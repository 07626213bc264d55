"""A model on one rank and on several, from what ``llm-numba bench ranks`` wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_numba.bench.tables import Table, figure

# What is timed, by how names of results begin.
_TIMED = {
    "decode": "a step of {batch}, ms",
    "prefill": "a prompt of {tokens:,}, ms",
    "load": "{requests} requests, tokens/s",
}

Record = Mapping[str, Any]


def fastest(records: Sequence[Record]) -> list[Record]:
    """Return of each split the record with the shortest steps, from few ranks to many.

    Machines are apart, and so are models with other switches.

    Parameters
    ----------
    records : sequence of dict
        Of one model.
    """
    found: dict[tuple[Any, ...], Record] = {}
    for record in sorted(records, key=_order):
        found.setdefault((*_split(record), *_switches(record)), record)
    return list(found.values())


def splits(records: Sequence[Record]) -> Table:
    """Return a row for each record, a column for what was timed, and how many times one rank's.

    Parameters
    ----------
    records : sequence of dict
        From :func:`fastest`.
    """
    timed = [_medians(record) for record in records]
    headings = list(dict.fromkeys(heading for medians in timed for heading in medians))
    titles = ["machine", "split", "arrays by"]
    for heading in headings:
        titles += [heading, "times one"]
    rows = []
    for record, medians in zip(records, timed, strict=True):
        machine, tp, pp = _split(record)
        cells = [machine, f"tp={tp}, pp={pp}", _path(record)]
        alone = next((_medians(each) for each in records if _split(each) == (machine, 1, 1)), {})
        for heading in headings:
            cells += _cells(heading, medians, alone)
        rows.append(cells)
    return Table(titles, rows)


def _medians(record: Record) -> dict[str, float]:
    found = {}
    for result in record["results"]:
        kind = result["name"].partition("/")[0]
        if kind in _TIMED:
            found[_TIMED[kind].format(**result["shape"])] = result["median"]
    return found


def _cells(heading: str, medians: Mapping[str, float], alone: Mapping[str, float]) -> list[str]:
    """Return a time, and how many times as fast it is as on one rank."""
    if heading not in medians:
        return ["-", "-"]
    if heading not in alone:
        return [figure(medians[heading]), "-"]
    gain = medians[heading] / alone[heading]
    return [figure(medians[heading]), f"{gain if heading.endswith('tokens/s') else 1 / gain:.2f}"]


def _split(record: Record) -> tuple[str, int, int]:
    environment, settings = record["environment"], record["settings"]
    if settings["device"] == "cuda":
        machine = environment["gpus"][0]["name"].removeprefix("NVIDIA ")
    else:
        machine = f"{environment['device']['cores']} cores"
    return machine, settings["tp"], settings["pp"]


def _switches(record: Record) -> tuple[str, ...]:
    # Older records have none.
    return tuple(record["settings"].get("switches", ()))


def _path(record: Record) -> str:
    """Return what carried arrays, and which switches were on."""
    _, tp, pp = _split(record)
    names = record["results"][0]["shape"]["path"], *_switches(record)
    return "" if tp * pp == 1 else ", ".join(f"`{name}`" for name in names)


def _order(record: Record) -> tuple[Any, ...]:
    machine, tp, pp = _split(record)
    steps = [median for heading, median in _medians(record).items() if heading.startswith("a step")]
    return machine, tp * pp, pp, _switches(record), min(steps, default=float("inf"))
