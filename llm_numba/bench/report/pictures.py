"""The roofline, and what more ranks bring."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.bench.report.page import Picture
from llm_numba.bench.tables import figure

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 80, 28, 40, 48, 360
_STYLES = "abcd"


class Dot(NamedTuple):
    """Something that ran.

    Attributes
    ----------
    label : str
    num_bytes, flops : float
        The fewest that it must move, and that it computes.
    seconds : float
    """

    label: str
    num_bytes: float
    flops: float
    seconds: float


def roofline(
    groups: Mapping[str, Sequence[Dot]],
    bytes_per_second: float,
    flops_per_second: float | None = None,
) -> Picture:
    """Draw work under the ceilings of memory and arithmetic, both axes in factors.

    The slope is the memory's speed times FLOPs a byte, the flat roof the arithmetic's speed
    (Williams, Waterman and Patterson: Roofline, CACM 52(4), 2009).

    Parameters
    ----------
    groups : mapping of str to sequence of Dot
        Four at most, each in a colour of its own; work without FLOPs is left out.
    bytes_per_second : float
    flops_per_second : float, optional
    """
    groups = {name: [each for each in some if each.flops] for name, some in groups.items()}
    points = [(each.flops / each.num_bytes, each.flops / each.seconds / 1e12)
              for some in groups.values() for each in some]  # fmt: skip
    slope, roof = bytes_per_second / 1e12, (flops_per_second or math.inf) / 1e12
    bend = [roof / slope] if math.isfinite(roof) else []
    xs, ys = _decades([*bend, *(x for x, _ in points)]), [y for _, y in points]
    ys = _decades([*ys, *(min(slope * x, roof) for x in (xs[0], xs[-1]))])
    width, height = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - math.log10(xs[0])) / (math.log10(xs[-1]) - math.log10(xs[0]))
        up = (math.log10(y) - math.log10(ys[0])) / (math.log10(ys[-1]) - math.log10(ys[0]))
        return _LEFT + width * across, _TOP + height * (1 - up)

    drawing = Drawing(WIDTH, _HEIGHT)
    for x in xs:
        drawing.line([place(x, ys[0]), place(x, ys[-1])], "dashed")
        drawing.text(place(x, ys[0])[0], _TOP + height + 16, f"{x:,g}", "dim")
    for y in ys:
        drawing.text(_LEFT - 8, place(xs[0], y)[1], f"{y:,g}", "dim", anchor="end")
    drawing.text(_LEFT + width / 2, _HEIGHT - 10, "FLOPs a byte", "dim")
    drawing.text(_LEFT - 8, 12, "TFLOP/s", "dim", anchor="end")
    corner = min(max(roof / slope, xs[0]), xs[-1])
    bends = dict.fromkeys((xs[0], corner, xs[-1]))
    drawing.line([place(x, min(slope * x, roof)) for x in bends], "whisker")
    for i, (style, (name, some)) in enumerate(zip(_STYLES, groups.items(), strict=False)):
        drawing.rect(_LEFT + 12 + 140 * i, 7, 10, 10, style)
        drawing.text(_LEFT + 28 + 140 * i, 12, name, anchor="start")
        for each in some:
            x, y = place(each.flops / each.num_bytes, each.flops / each.seconds / 1e12)
            drawing.rect(x - 4, y - 4, 8, 8, style, opacity=0.8, radius=4)
    alt = _told(groups, bytes_per_second, roof)
    return Picture(drawing.svg(escape(alt, quote=True)), alt)


def _decades(values: Sequence[float]) -> list[float]:
    """Return powers of ten around values, two at least."""
    lowest, highest = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**each for each in range(lowest, max(highest, lowest + 1) + 1)]


def _told(groups: Mapping[str, Sequence[Dot]], bytes_per_second: float, roof: float) -> str:
    said = [f"Roofline. Memory: {figure(bytes_per_second / 1e9)} GB/s."]
    if math.isfinite(roof):
        said.append(f"Arithmetic: {figure(roof)} TFLOP/s.")
    for name, some in groups.items():
        if some:
            longest = max(some, key=lambda each: each.seconds)
            x, y = longest.flops / longest.num_bytes, longest.flops / longest.seconds / 1e12
            ceiling = min(bytes_per_second / 1e12 * x, roof)
            said.append(
                f"{name}: what takes longest, {longest.label}, has {figure(x)} FLOPs a byte and "
                f"reaches {figure(100 * y / ceiling)} % of its ceiling."
            )
    return " ".join(said)


def scaling(rates: Mapping[str, Mapping[int, float]]) -> Picture:
    """Draw tokens a second against the number of ranks, beside what it would be in proportion.

    Parameters
    ----------
    rates : mapping of str to mapping of int to float
        Tokens a second by ranks, of each way to split a model; four at most.
    """
    counts = sorted({count for each in rates.values() for count in each})
    most = max(rate for each in rates.values() for rate in each.values())
    width, height = WIDTH - _LEFT - 130, 240
    drawing = Drawing(WIDTH, _TOP + height + _BOTTOM)

    def place(count: int, rate: float) -> tuple[float, float]:
        across = counts.index(count) / max(len(counts) - 1, 1)
        return _LEFT + width * across, _TOP + height * (1 - rate / most)

    for share in (0, 0.5, 1):
        y = _TOP + height * (1 - share)
        drawing.line([(_LEFT, y), (_LEFT + width, y)])
        drawing.text(_LEFT - 8, y, figure(share * most), "dim", anchor="end")
    for count in counts:
        drawing.text(place(count, 0)[0], _TOP + height + 18, str(count))
    drawing.text(_LEFT + width / 2, _TOP + height + 38, "ranks", "dim")
    drawing.text(_LEFT - 8, 12, "tokens/s", "dim", anchor="end")
    lowest = -math.inf
    ends = sorted(rates.items(), key=lambda each: -each[1][max(each[1])])
    for style, (name, known) in zip(_STYLES, ends, strict=False):
        marks = [place(count, rate) for count, rate in sorted(known.items())]
        drawing.line(marks, style)
        for x, y in marks:
            drawing.rect(x - 3, y - 3, 6, 6, style)
        lowest = max(marks[-1][1], lowest + 16)
        drawing.text(marks[-1][0] + 10, lowest, name, anchor="start")
    told = "; ".join(
        f"{name}: "
        + ", ".join(f"{figure(rate)} on {count}" for count, rate in sorted(each.items()))
        for name, each in rates.items()
    )
    alt = f"Tokens a second by ranks. {told}."
    return Picture(drawing.svg(escape(alt, quote=True)), alt)
