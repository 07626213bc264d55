"""The picture of a ladder: banks, sectors and totals of its steps, side by side."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Self

from llm_numba.kernels.ladder import Ladder
from llm_numba.microscope.requests import Witness, touched_sectors, worst_request
from llm_numba.microscope.views import Examination, View, examine
from llm_numba.microscope.words import counted
from llm_numba.simulator import Report
from llm_numba.simulator.costs import SECTOR


class Picture(str):
    """An SVG element that a notebook shows as a picture, and everybody else takes for its text.

    Parameters
    ----------
    svg : str
    """

    def __new__(cls, svg: str) -> Self:
        """Take an element as it is."""
        return super().__new__(cls, svg)

    def _repr_html_(self) -> str:
        return f'<div class="picture">{self}</div>'


def picture(
    ladder: Ladder | str,
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    steps: Sequence[str] | None = None,
    *,
    themed: bool = False,
) -> Picture:
    """Run steps of a ladder in the simulator and draw what they cost.

    Parameters
    ----------
    ladder : Ladder or str
        Or its name, ``"transpose"``.
    shape : sequence of int, optional
        In the order of the ladder's axes; by default its example.
    dtype : str, optional
        Storage format; by default the first of the ladder's.
    steps : sequence of str, optional
        By default all.
    themed : bool
        As of :func:`draw`.

    Returns
    -------
    Picture
        An SVG element; the same for the same costs.
    """
    return draw(examine(ladder, shape, dtype, steps), themed=themed)


def compare(title: str, reports: Mapping[str, Report]) -> Picture:
    """Draw what kernels cost, side by side, from reports of the simulator.

    Parameters
    ----------
    title : str
        Of the picture.
    reports : mapping of str to Report
        The heading of each column, and what :func:`llm_numba.simulator.simulate` returned.

    Returns
    -------
    Picture
        As of :func:`draw`.
    """
    views = (View(name, "", (), (report,)) for name, report in reports.items())
    return draw(Examination(title, tuple(views)))


def draw(examination: Examination, *, themed: bool = False) -> Picture:
    """Draw the steps of an examination side by side.

    For each step: the shared request that wastes most, lanes against banks; the global request
    that wastes most, lanes against the sectors that it moves; below, all steps' totals.

    Parameters
    ----------
    examination : Examination
    themed : bool
        False: on a white card, to be shown anywhere. True: transparent, in the colours of the page
        that the element is put into, which has them as CSS variables ``--draw-text``,
        ``--draw-dim``, ``--draw-line``, ``--draw-soft``, ``--draw-a`` and ``--draw-b``.

    Returns
    -------
    Picture
        An SVG element with a title, and :func:`describe` for those who cannot see it.
    """
    from llm_numba.microscope.drawing import render

    svg = render(examination, themed=themed)
    head, body = svg.split(">", 1)
    label = escape(describe(examination))
    return Picture(
        f'{head} role="img" aria-label="{label}"><title>{escape(examination.title)}</title>{body}'
    )


def describe(examination: Examination) -> str:
    """Tell in words what the picture shows.

    Parameters
    ----------
    examination : Examination
    """
    return " ".join(f"{view.name}: {_sentence(view)}." for view in examination.views)


def _sentence(view: View) -> str:
    total = view.total
    parts = []
    if worst := worst_request(view.reports, "global"):
        moved = touched_sectors(worst.request)
        parts += [
            f"{_named(worst)} moves {counted(len(moved), 'sector')} of global memory, "
            f"{counted(len(moved) * SECTOR, 'byte')} for {sum(each.used for each in moved)}",
            f"all requests {counted(total.global_sectors, 'sector')}, ideally "
            f"{total.ideal_sectors:,}",
        ]
    if worst := worst_request(view.reports, "shared"):
        parts += [
            f"{_named(worst)} takes {counted(worst.request.cost, 'wavefront')} of shared "
            f"memory, {counted(worst.request.ways, 'way')}",
            f"all requests {counted(total.shared_wavefronts, 'wavefront')}, ideally "
            f"{total.ideal_wavefronts:,}",
        ]
    return "; ".join(parts) or "no memory is touched"


def _named(worst: Witness) -> str:
    article = "an" if worst.request.kind == "atomic" else "a"
    return f"{article} {worst.request.kind} ({Path(worst.line.file).name}, line {worst.line.line})"
