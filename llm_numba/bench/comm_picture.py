"""What ``llm-numba bench comm`` wrote: time against size, and a row for each size."""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_numba.bench import log_plot
from llm_numba.bench.drawing import Drawing
from llm_numba.bench.tables import Table, figure
from llm_numba.parallel.selection import is_launch_alone

_OPERATIONS = {"all_reduce": "a", "all_gather": "b", "send": "c", "copy": "d"}
_PATHS = {"peer": "a", "nccl": "b", "mpi": "c", "mpi-staged": "d"}
_LONG = 1 << 16  # bytes from which on bandwidth is worth a column
_NAMES = {"copy": "copy in memory", "send": "to the next rank"}

Curves = Mapping[str, Sequence[tuple[int, float]]]


def _styles(what: str) -> Mapping[str, str]:
    """Return the styles of the lines: of paths, if all are of one operation."""
    return _PATHS if what in _OPERATIONS else _OPERATIONS


def curves_of(record: Mapping[str, Any], what: str, rate: bool = False) -> Curves:
    """Return (bytes, µs) of one operation by path, or of one path by operation.

    What is the time of a graph's launch is left out.

    Parameters
    ----------
    record : mapping
    what : str
        An operation, or what carried the arrays.
    rate : bool
        In place of µs, GB/s of the bytes that a rank must send, from 64 KiB on.
    """
    by, name = ("operation", "path") if what in _OPERATIONS else ("path", "operation")
    curves: dict[str, list[tuple[int, float]]] = {}
    for result in record["results"]:
        shape, time = result["shape"], result["median"]
        if shape[by] != what or (rate and shape["bytes"] < _LONG) or is_launch_alone(shape, time):
            continue
        value = 1e-3 * shape["bus_bytes"] / time if rate else time
        curves.setdefault(shape[name], []).append((shape["bytes"], value))
    return curves


def describe(curves: Curves, what: str) -> str:
    """Tell in words what :func:`draw` shows.

    Parameters
    ----------
    curves, what
        As for :func:`draw`.
    """
    styles = _styles(what)
    name = next((each for each in styles if each in curves), next(iter(curves)))
    (small, short), (large, long) = curves[name][0], curves[name][-1]
    drawn = "operations, by path" if styles is _PATHS else "operations"
    return (
        f"Time of ranks' {drawn}, against the size of the array. {name} takes "
        f"{figure(short)} µs at {small} bytes and {figure(long)} µs at {large:,} bytes."
    )


def sizes(curves: Curves, rate: bool = False) -> Table:
    """Return a row for each size, and a column for each curve that has several.

    Parameters
    ----------
    curves : mapping of str to sequence of (int, float)
    rate : bool
        As of :func:`curves_of`.
    """
    names = [name for name in curves if len(curves[name]) > 1]
    unit = "GB/s" if rate else "µs"
    columns = [dict(curves[name]) for name in names]
    rows = [
        [f"{size:,}", *(figure(each[size]) if size in each else "-" for each in columns)]
        for size in sorted(set().union(*columns))
    ]
    return Table(["bytes", *(f"{_NAMES.get(name, name)}, {unit}" for name in names)], rows)


def draw(curves: Curves, what: str) -> Drawing:
    """Draw lines through (bytes, µs), both axes in factors; what has one size only has no line.

    Parameters
    ----------
    curves : mapping of str to sequence of (int, float)
        By operation, or by path.
    what : str
        As of :func:`curves_of`.
    """
    lines = {name: curve for name, curve in curves.items() if len(curve) > 1}
    styles = _styles(what)
    # Those that are known have colours; of a path of another kind all are drawn.
    shown = [name for name in lines if name in styles] or list(lines)
    said = {name: _NAMES.get(name, name) for name in shown}
    return log_plot.draw(
        {name: lines[each] for each, name in said.items()},
        {name: styles[each] for each, name in said.items() if each in styles},
        unit="µs",
        tick=log_plot.in_bytes,
    )
