"""Tables of figures, as pages and reports show them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, dict[str, Any]]  # of a record, by name


@dataclass(frozen=True)
class Table:
    """A table whose first column is of words, and the others of figures, unless it says otherwise.

    Attributes
    ----------
    headings : sequence of str
    rows : sequence of sequence of str
        Cells may hold `code` between backticks.
    words : bool
        Whether all columns are of words.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False

    def markdown(self) -> list[str]:
        """Return its lines in Markdown; none without rows."""
        if not self.rows:
            return []
        others = "| --- " if self.words else "| --: "
        lines = [_line(self.headings), f"| --- {others * (len(self.headings) - 1)}|"]
        return lines + [_line(row) for row in self.rows]


def _line(cells: Sequence[str]) -> str:
    told = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(told)} |"


def by_name(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a record's results by their names.

    Parameters
    ----------
    record : mapping
    """
    return {each["name"]: each for each in record["results"]}


def figure(value: float) -> str:
    """Return a number with three digits or more, as the terminal shows it.

    Parameters
    ----------
    value : float
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_unit(results: Results, name: str) -> str:
    """Return a result's median with its unit; "-" if there is none.

    Parameters
    ----------
    results : mapping of str to dict
    name : str
    """
    if name not in results:
        return "-"
    return f"{figure(results[name]['median'])} {results[name]['unit']}"


def left_out(record: Mapping[str, Any], prefixes: tuple[str, ...] = ("",)) -> str:
    """Say what a record lacks of what such names begin with, and why; "" if nothing.

    Parameters
    ----------
    record : mapping
    prefixes : tuple of str
    """
    found = [
        (why, name) for name, why in record.get("left_out", {}).items() if name.startswith(prefixes)
    ]
    reasons = [
        f"{', '.join(f'`{name}`' for _, name in group)} ({why})"
        for why, group in itertools.groupby(sorted(found), key=lambda each: each[0])
    ]
    return f"Left out: {'; '.join(reasons)}." if reasons else ""


def medians(results: Sequence[Mapping[str, Any]]) -> Table:
    """Return medians with their spread, and targets where there are some.

    Parameters
    ----------
    results : sequence of dict
        Of a record.
    """
    bounds = [_bound(result) for result in results]
    headings = ["measured", "median", "p10 to p90", "runs"] + ["target"] * any(bounds)
    rows = []
    for result, bound in zip(results, bounds, strict=True):
        cells = [
            result["what"], f"{figure(result['median'])} {result['unit']}",
            f"{figure(result['p10'])} to {figure(result['p90'])}", f"{result['n']}",
        ]  # fmt: skip
        rows.append([*cells, bound] if any(bounds) else cells)
    return Table(headings, rows)


def _bound(result: Mapping[str, Any]) -> str:
    """Return what a result was asked to reach; "" if nothing."""
    target = result.get("target", {})
    signs = {"at_least": "≥", "at_most": "≤"}
    return next((f"{signs[key]} {figure(target[key])}" for key in signs if key in target), "")
