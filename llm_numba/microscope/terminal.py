"""The microscope's report in the terminal: the source with its cost, and the steps side by side.

Without colours it must read as well: a line that wastes something has a ``>`` before it.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_numba.kernels.basics_occupancy import MAX_REGISTERS, occupancy
from llm_numba.kernels.ladder import Ladder
from llm_numba.microscope.excerpts import Line, context, excerpts
from llm_numba.microscope.views import Examination, View
from llm_numba.microscope.words import counted, printable, times
from llm_numba.runtime import Launch
from llm_numba.simulator import LineReport, Report
from llm_numba.simulator.costs import SECTOR

# Occupancy is told for this GPU, an H100.
_CAPABILITY = (9, 0)
_NARROWEST_SOURCE = 24
_NOTHING = LineReport("", 0)

_LEGEND = (
    "Req.: loads, stores and atomics of warps. Sectors: pieces of 32 bytes that cross to global "
    "memory. Wavefronts: passes over the 32 banks of shared memory. Of ideal: times as many as if "
    "the same bytes lay side by side. Of fewest: bytes moved, times the least that the operation "
    "needs. Ways: most words that a request wants of one bank. Div.: branches that split a warp."
)


def print_ladders(console: Console, ladders: Iterable[Ladder]) -> None:
    """List ladders and their steps.

    Parameters
    ----------
    console : Console
    ladders : iterable of Ladder
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    for ladder in ladders:
        facts = f"{ladder.axes} = {','.join(map(str, ladder.example))}; {', '.join(ladder.dtypes)}"
        table.add_row(Text(ladder.name, "bold"), Text(facts, "dim"))
        for step in ladder.steps:
            table.add_row(Text(f"  {step.name}"), Text(step.idea))
    console.print(table)


def print_examination(console: Console, examination: Examination) -> None:
    """Print each step's source and cost, and then the steps side by side.

    Parameters
    ----------
    console : Console
    examination : Examination
    """
    for view in examination.views:
        print_view(console, view)
    console.print(Text(examination.title, "bold"))
    console.print(summary(examination))
    console.print(Text(_LEGEND, "dim"))


def print_view(console: Console, view: View) -> None:
    """Print one step: its idea, and for each launch the source beside its cost.

    Parameters
    ----------
    console : Console
    view : View
    """
    title = Text(view.name, "bold")
    if view.idea:
        title.append(f": {view.idea}", "not bold")
    console.print(title)
    if not view.launches:
        console.print("Nothing to launch for this shape.")
    for launch, report in zip(view.launches, view.reports, strict=True):
        console.print()
        _print_launch(console, launch, report)
    if view.agreement is not None:
        console.print(_agreement(view))
    console.print()


def summary(examination: Examination) -> Table:
    """Return the steps side by side, a row each.

    Parameters
    ----------
    examination : Examination
    """
    has_fewest = bool(examination.fewest_bytes)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nStep", no_wrap=True)
    headings = ["Global\nreq.", "\nSectors", "a\nreq.", "of\nideal"]
    headings += ["of\nfewest"] if has_fewest else []
    headings += ["Shared\nreq.", "Wave-\nfronts", "of\nideal", "\nWays", "\nDiv."]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for view in examination.views:
        total = view.total
        fewest = _ratio(SECTOR * total.global_sectors, examination.fewest_bytes)
        table.add_row(
            Text(view.name, "bold"),
            _count(total.global_requests),
            _count(total.global_sectors),
            _per(total.global_sectors, total.global_requests),
            _ratio(total.global_sectors, total.ideal_sectors),
            *([fewest] if has_fewest else []),
            _count(total.shared_requests),
            _count(total.shared_wavefronts),
            _ratio(total.shared_wavefronts, total.ideal_wavefronts),
            _ways(total.max_bank_ways),
            _count(total.divergent),
        )
    return table


def print_context(console: Console, places: Sequence[tuple[str, int]]) -> None:
    """Print source lines among their neighbours.

    Parameters
    ----------
    console : Console
    places : sequence of (file, line)
    """
    for file in dict.fromkeys(file for file, _ in places):
        marked = {line for other, line in places if other == file}
        lines = context(file, marked)
        console.print(Text(_shown(file), "cyan"), soft_wrap=True)
        for before, line in zip((None, *lines), lines, strict=False):
            if before is not None and line.number > before.number + 1:
                console.print(Text("       ...", "dim"))
            here = line.number in marked
            text = f"{'>' if here else ' '} {line.number:4} {line.text}"
            console.print(Text(text, "bold" if here else "dim"), soft_wrap=True)


def _print_launch(console: Console, launch: Launch, report: Report) -> None:
    found = excerpts(launch.kernel, report)
    shape = f"{report.kernel}[{_extents(launch.grid)}, {_extents(launch.block)}]"
    console.print(Text(f"{shape} in {_shown(found[0].file)}", "cyan"), soft_wrap=True)
    room = console.width if console.is_terminal else None
    for before, excerpt in zip((None, *found), found, strict=False):
        margin = _Margin(excerpt.lines, room)
        if before is not None:
            where = f", in {_shown(excerpt.file)}" if excerpt.file != before.file else ""
            console.print(Text(f"called{where}:", "cyan"), soft_wrap=True)
        for heading in margin.headings():
            console.print(Text(heading, "dim"), soft_wrap=True)
        for line in excerpt.lines:
            console.print(margin.beside(line), soft_wrap=True)
    if report.printed:
        console.print(Text("The kernel printed:", "dim"))
        for text in report.printed.splitlines():
            console.print(Text(printable(text)), soft_wrap=True)
    for sentence in _resources(report):
        console.print(Text(sentence, "dim"))


# -- The margin -----------------------------------------------------------------------------------


class _Column:
    """A column of the margin: a figure of a line, and the ideal where there is one."""

    def __init__(self, group: str, heading: str, name: str, ideal: str | None = None) -> None:
        self.group, self.heading = group, heading
        self._name, self._ideal = name, ideal

    def of(self, line: LineReport) -> int:
        """Return the line's figure."""
        return getattr(line, self._name)

    def wastes(self, line: LineReport) -> bool:
        """Whether the figure is above the ideal."""
        return self._ideal is not None and self.of(line) > getattr(line, self._ideal)

    def text(self, line: LineReport) -> Text:
        """Return the figure, and behind a slash the ideal where it is less."""
        value = self.of(line)
        if not self.wastes(line):
            return Text(str(value or ""))
        ideal = getattr(line, self._ideal)
        return Text(f"{value}/{ideal}", _style(value / ideal))


_COLUMNS = (
    _Column("global", "req.", "global_requests"),
    _Column("global", "sectors", "global_sectors", "ideal_sectors"),
    _Column("shared", "req.", "shared_requests"),
    _Column("shared", "wavefr.", "shared_wavefronts", "ideal_wavefronts"),
    _Column("shared", "ways", "max_bank_ways"),
    _Column("", "div.", "divergent"),
)


class _Margin:
    """The figures of a function's lines, in the columns that it needs."""

    def __init__(self, lines: Iterable[Line], room: int | None) -> None:
        costs = [line.cost for line in lines if line.cost]
        self._columns = [each for each in _COLUMNS if any(map(each.of, costs))]
        self._widths = [
            max(len(each.heading), *(len(each.text(cost)) for cost in costs))
            for each in self._columns
        ]
        self._room = room
        # A mark, the figures and the line's number.
        self.start = 2 + sum(width + 1 for width in self._widths) + 5

    def headings(self) -> list[str]:
        """Return the lines above the columns: which memory, and which figure."""
        groups, names, seen = "", "  ", ""
        for column, width in zip(self._columns, self._widths, strict=True):
            if column.group != seen:
                groups = groups.ljust(len(names)) + column.group
                seen = column.group
            names += f"{column.heading:>{width}} "
        return [line.rstrip() for line in (groups, names) if line.strip()]

    def beside(self, line: Line) -> Text:
        """Return a source line behind its figures, fitted to the terminal."""
        cost = line.cost or _NOTHING
        wastes = any(each.wastes(cost) for each in self._columns)
        margin = Text().append(*("> ", "bold red") if wastes else ("  ",))
        for column, width in zip(self._columns, self._widths, strict=True):
            cell = column.text(cost)
            margin.append(" " * (width - len(cell))).append_text(cell).append(" ")
        margin.append(f"{line.number:4} ", "dim")
        style = "bold" if wastes else "" if line.cost else "dim"
        source = ("\n" + " " * self.start).join(self._fitted(line))
        return margin.append(source, style)

    def _fitted(self, line: Line) -> list[str]:
        """Break a line that costs something; cut one that does not, to keep the code's shape."""
        if self._room is None:
            return [line.text]
        room = max(self._room - self.start, _NARROWEST_SOURCE)
        if line.cost is None:
            return [line.text if len(line.text) <= room else line.text[: room - 1] + "…"]
        indent = " " * (len(line.text) - len(line.text.lstrip()) + 4)
        return textwrap.wrap(line.text, room, subsequent_indent=indent, break_on_hyphens=False)


# -- Below the source -----------------------------------------------------------------------------


def _resources(report: Report) -> list[str]:
    threads = math.prod(report.block)
    block = [counted(threads, "thread"), f"{counted(report.shared_bytes, 'byte')} shared"]
    if report.local_bytes:
        block.append(f"{counted(report.local_bytes, 'byte')} of local arrays a thread")
    if report.barriers:
        block.append(f"{counted(report.barriers, 'barrier')} in all")
    return [f"Block: {', '.join(block)}.", _occupancy(threads, report.shared_bytes)]


def _occupancy(threads: int, shared_bytes: int) -> str:
    """Say what fits on an SM if registers allow it: only the compiler knows how many it takes."""
    best = occupancy(threads, 1, shared_bytes, _CAPABILITY)
    major, minor = _CAPABILITY
    if not best.blocks:
        return f"SM {major}.{minor}: not one block fits."
    registers = max(
        each
        for each in range(1, MAX_REGISTERS + 1)
        if occupancy(threads, each, shared_bytes, _CAPABILITY).blocks == best.blocks
    )
    return (
        f"SM {major}.{minor}: {best.warps} of {best.max_warps} warps, "
        f"{counted(best.blocks, 'block')} (limit: {' and '.join(best.limited_by)}), "
        f"up to {registers} registers a thread."
    )


def _agreement(view: View) -> Text:
    agreement = view.agreement
    assert agreement is not None
    if agreement.holds:
        how = f"within {agreement.error:.1e} of" if agreement.error else "equal to"
        return Text(f"The result is {how} the reference's.", "dim")
    return Text(
        f"The result is WRONG: {agreement.error:.1e} from the reference, where rounding explains "
        f"{agreement.allowed:.1e}.",
        "bold red",
    )


# -- Figures --------------------------------------------------------------------------------------


def _count(value: int) -> Text:
    if not value:
        return Text("-", "dim")
    return Text(f"{value:,}" if value < 1_000_000 else f"{value / 1e6:,.2f}M")


def _per(value: int, count: int) -> Text:
    return Text(f"{value / count:.1f}" if count else "-", "" if count else "dim")


def _ratio(value: int, ideal: int) -> Text:
    if not ideal:
        return Text("-", "dim")
    return Text(times(value, ideal), _style(value / ideal))


def _ways(ways: int) -> Text:
    return Text(str(ways or "-"), "bold red" if ways > 1 else "" if ways else "dim")


def _style(ratio: float) -> str:
    """Return the style of a figure that is so many times the ideal."""
    if ratio <= 1:
        return ""
    return "bold red" if ratio >= 2 else "yellow"


def _extents(extents: tuple[int, ...]) -> str:
    return str(extents[0]) if len(extents) == 1 else str(tuple(extents))


def _shown(file: str) -> str:
    """Return a path as short as it can be told from here."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
