"""The microscope's picture as matplotlib draws it."""

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from llm_numba.microscope.requests import (
    Witness,
    bank_words,
    served_together,
    touched_sectors,
    worst_request,
)
from llm_numba.microscope.views import Examination, View
from llm_numba.microscope.words import counted, times
from llm_numba.simulator.costs import BANKS, SECTOR
from llm_numba.simulator.lanes import WARP

# Those of the documentation's drawings, and the CSS variables that carry them there.
TEXT, DIM, LINE, SOFT = "#24292f", "#5b6470", "#8b949e", "#eef1f5"
GOOD, BAD = "#2f6fb5", "#c05a18"
_VARIABLES = {
    TEXT: "--draw-text", DIM: "--draw-dim", LINE: "--draw-line", SOFT: "--draw-soft",
    GOOD: "--draw-a", BAD: "--draw-b",
}  # fmt: skip
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8.5,
    "text.color": TEXT,
    "axes.labelcolor": DIM,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": DIM,
    "ytick.labelcolor": DIM,
    "svg.hashsalt": "llm_numba",  # ids are otherwise random
}
_COLUMNS = 5  # of panels; more steps go to another row
# Lengths in inches.
_LEFT, _PANEL, _GAP = 0.55, 1.72, 0.22
_TITLE, _HEADING, _CAPTION, _AXIS, _BAR, _LEGEND = 0.42, 0.32, 0.38, 0.48, 0.24, 0.45
_ROW = _CAPTION + _PANEL + _AXIS
_NARROWEST = 5.6
_FIGURE = 1.25  # behind a bar
_STRIP = 3  # rows of lanes


def render(examination: Examination, *, themed: bool) -> str:
    """Return the picture as an SVG element.

    Parameters
    ----------
    examination : Examination
    themed : bool
        Whether colours are CSS variables on a transparent ground.
    """
    with style():
        return svg_of(figure(examination, card=not themed), themed=themed)


def svg_of(figure: Figure, *, themed: bool) -> str:
    """Return a figure as an SVG element. To be called within :func:`style`.

    Parameters
    ----------
    figure : Figure
    themed : bool
        As of :func:`render`.
    """
    buffer = io.StringIO()
    unnamed = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=unnamed)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Names that nothing refers to would clash where a page holds two pictures.
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    if themed:
        svg = re.sub("|".join(_VARIABLES), lambda found: f"var({_VARIABLES[found[0]]})", svg)
    return svg


def style() -> AbstractContextManager[None]:
    """Return the settings that the picture is drawn with, whatever the user's own are."""
    return matplotlib.style.context(["default", _STYLE])


def figure(examination: Examination, *, card: bool) -> Figure:
    """Lay the picture out: columns of panels, totals below. To be called within :func:`style`.

    Parameters
    ----------
    examination : Examination
    card : bool
        Whether to draw on white.
    """
    views = examination.views
    columns = _columns(views)
    alone = len(views) == 1
    pitch = _PANEL + (_LEFT if alone else _GAP)
    across = max(min(len(columns), _COLUMNS), 1)
    row_height = _HEADING + _ROW * max((len(panels) for _, panels in columns), default=0)
    top = _TITLE + row_height * math.ceil(len(columns) / across)
    height = top + _HEADING + _BAR * len(views) + _LEGEND
    page = _Page(max(_LEFT + across * pitch, _NARROWEST), height, card)
    page.text(_LEFT, 0.2, examination.title, size=11, weight="bold")
    for index, (heading, panels) in enumerate(columns):
        row, column = divmod(index, across)
        x, y = _LEFT + column * pitch, _TITLE + row * row_height
        page.text(x, y + 0.14, heading, size=10, weight="bold")
        for place, (space, worst) in enumerate(panels):
            below = y + _HEADING + place * _ROW
            _draw_request(page, x, below, worst, space, labelled=alone or column == 0)
    _draw_totals(page, top, examination, any(view.total.shared_requests for view in views))
    _draw_legend(page, height - _LEGEND / 2, bool(examination.fewest_bytes))
    return page.figure


def _columns(views: Sequence[View]) -> list[tuple[str, list[tuple[str, Witness | None]]]]:
    """Return headings and panels: a column a step; of a single step, a column a memory."""
    panels = {
        view.name: {space: worst_request(view.reports, space) for space in ("shared", "global")}
        for view in views
    }
    touched = [space for space in ("shared", "global") if any(p[space] for p in panels.values())]
    if len(views) == 1:
        ((name, found),) = panels.items()
        return [(name * (place == 0), [(space, found[space])])
                for place, space in enumerate(touched)]  # fmt: skip
    return [(name, [(space, found[space]) for space in touched]) for name, found in panels.items()]


class _Page:
    """A figure on which things are placed in inches from the top left corner."""

    def __init__(self, width: float, height: float, card: bool) -> None:
        self.width, self.height = width, height
        self.figure = Figure((width, height), facecolor="white" if card else "none")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        bottom = (self.height - y - height) / self.height
        return self.figure.add_axes(
            (x / self.width, bottom, width / self.width, height / self.height)
        )

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        self.figure.text(
            x / self.width, 1 - y / self.height, words, **{"va": "center", "size": 8.5, **how}
        )


def _draw_request(
    page: _Page, x: float, y: float, worst: Witness | None, space: str, *, labelled: bool
) -> None:
    """Draw one warp's request: its lanes down, banks or sectors across."""
    axes = page.axes(x, y + _CAPTION, _PANEL, _PANEL)
    deep = WARP if space == "shared" else WARP + _STRIP
    axes.set(xlim=(0, BANKS), ylim=(deep, 0), xlabel={"shared": "bank", "global": "sector"}[space])
    axes.xaxis.labelpad = axes.yaxis.labelpad = 1
    axes.spines[:].set_linewidth(0.6)
    ticks = {tick + 0.5: str(tick) for tick in (0, 8, 16, 24, 31)}
    axes.set_xticks(list(ticks), ticks.values())
    if space == "global":
        del ticks[31.5]
        ticks[WARP + _STRIP / 2] = "used"
    axes.set_yticks(list(ticks), ticks.values() if labelled else [])
    axes.tick_params(length=2, width=0.6, pad=2, labelsize=8)
    for line in (8, 16, 24):
        axes.axvline(line, color=LINE, linewidth=0.4, alpha=0.4)
    if labelled:
        axes.set_ylabel("lane")
    if worst is None:
        axes.set_facecolor("none")
        words = f"no {space} memory"
        axes.text(16, 16, words, ha="center", va="center", color=DIM)
        return
    captions = _draw_banks(axes, worst) if space == "shared" else _draw_sectors(axes, worst)
    page.text(x, y + 0.09, f"{worst.request.kind}, line {worst.line.line}: {captions[0]}")
    page.text(x, y + 0.25, captions[1], color=DIM)


def _draw_banks(axes: Axes, worst: Witness) -> tuple[str, str]:
    request = worst.request
    met = bank_words(request)
    for words in np.unique(met[met > 0]):
        cells = [(bank, lane) for lane, bank in np.argwhere(met == words)]
        heat = 0.45 + 0.55 * math.log2(words) / math.log2(WARP)
        _fill(axes, cells, *((GOOD, 1.0) if words == 1 else (BAD, heat)))
    for group in served_together(request)[1:]:
        axes.axhline(group.start, color=LINE, linewidth=0.6)
    return counted(
        request.ways, "way"
    ), f"{counted(request.cost, 'wavefront')}, ideally {worst.ideal}"


def _draw_sectors(axes: Axes, worst: Witness) -> tuple[str, str]:
    request = worst.request
    moved = touched_sectors(request)
    used = sum(each.used for each in moved)
    colour = BAD if request.cost > worst.ideal else GOOD
    for column, sector in enumerate(moved):
        axes.add_patch(Rectangle((column, 0), 1, WARP, color=colour, alpha=0.18, linewidth=0))
        _fill(axes, [(column, lane) for lane in sector.lanes], colour, 1.0)
    # Below the lanes, to the same scale: what is moved, and the part of it that is used.
    axes.axhline(WARP, color=LINE, linewidth=0.6)
    for length, alpha in ((len(moved), 0.45), (used / SECTOR, 1.0)):
        bar = Rectangle((0, WARP + 0.6), length, _STRIP - 1.2, alpha=alpha, linewidth=0)
        bar.set_facecolor(colour)
        axes.add_patch(bar)
    return (
        counted(len(moved), "sector"),
        f"{counted(len(moved) * SECTOR, 'byte')} moved, {used} used",
    )


def _fill(axes: Axes, cells: Sequence[tuple[int, int]], colour: str, alpha: float) -> None:
    squares = [Rectangle(cell, 1, 1) for cell in cells]
    axes.add_collection(
        PatchCollection(squares, facecolor=colour, edgecolor="none", alpha=alpha), autolim=False
    )


def _draw_totals(page: _Page, top: float, examination: Examination, shared: bool) -> None:
    """Draw the ladder side by side: what all lines cost, and what they would have ideally."""
    charts = [("sectors, all requests", "global_sectors", "ideal_sectors")]
    charts += [("wavefronts, all requests", "shared_wavefronts", "ideal_wavefronts")] * shared
    names = [view.name for view in examination.views]
    label_room = 0.2 + 0.075 * max(map(len, names))
    room = (page.width - _LEFT - label_room) / len(charts)
    page.text(_LEFT, top + 0.14, "totals", size=10, weight="bold")
    for place, (heading, name, ideal) in enumerate(charts):
        x = _LEFT + label_room + place * room
        axes = page.axes(x, top + _HEADING, room - _FIGURE, _BAR * len(names))
        page.text(x, top + 0.15, heading, color=DIM)
        _draw_bars(axes, examination.views, name, ideal)
        fewest = 0 if place else examination.fewest_bytes / SECTOR
        longest = max(getattr(view.total, name) for view in examination.views)
        axes.set_xlim(0, max(longest, fewest, 1))
        axes.set_yticks(range(len(names)), [] if place else names)
        axes.tick_params(labelcolor=TEXT)
        if fewest:
            axes.axvline(fewest, color=TEXT, linewidth=1, dashes=(3, 2))


def _draw_bars(axes: Axes, views: Sequence[View], name: str, ideal_name: str) -> None:
    for row, view in enumerate(views):
        value, ideal = getattr(view.total, name), getattr(view.total, ideal_name)
        axes.barh(row, ideal, 0.7, color=GOOD)
        axes.barh(row, value - ideal, 0.7, left=ideal, color=BAD)
        excess = f"  ({times(value, ideal)})" if value > ideal else ""
        axes.annotate(
            f"{value:,}{excess}" if value else "none", (value, row), (4, 0),
            textcoords="offset points", va="center", color=TEXT if value else DIM,
        )  # fmt: skip
    axes.set(ylim=(len(views) - 0.5, -0.5), xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)


def _draw_legend(page: _Page, y: float, has_fewest: bool) -> None:
    entries = [(GOOD, "ideal"), (BAD, "conflict, or moved in vain")]
    x = _LEFT
    for colour, words in entries:
        axes = page.axes(x, y - 0.06, 0.12, 0.12)
        axes.set_axis_off()
        axes.add_patch(Rectangle((0, 0), 1, 1, color=colour, linewidth=0))
        page.text(x + 0.18, y, words, color=DIM)
        x += 0.4 + 0.066 * len(words)
    if has_fewest:
        axes = page.axes(x, y - 0.08, 0.12, 0.16)
        axes.set_axis_off()
        axes.axvline(0.5, color=TEXT, linewidth=1, dashes=(3, 2))
        page.text(x + 0.18, y, "fewest sectors possible", color=DIM)
