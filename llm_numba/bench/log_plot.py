"""Lines over sizes, both axes in factors."""

import math
from collections.abc import Callable, Mapping, Sequence

from llm_numba.bench.drawing import WIDTH, Drawing

Curves = Mapping[str, Sequence[tuple[float, float]]]

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 96, 120, 14, 40, 320


def draw(
    curves: Curves,
    styles: Mapping[str, str],
    *,
    unit: str,
    tick: Callable[[float], str],
    ticks: Sequence[float] = (),
    marks: Mapping[str, float] | None = None,
) -> Drawing:
    """Draw lines through points, and their names behind their ends.

    Parameters
    ----------
    curves : mapping of str to sequence of (float, float)
        By name; sizes and values, above 0.
    styles : mapping of str to str
        A class of lines for each name; those without one are thin.
    unit : str
        Of the values.
    tick : callable
        Writes a size.
    ticks : sequence of float, optional
        Sizes to be written below; by default every second one.
    marks : mapping of str to float, optional
        Sizes to be marked by a dashed line, by what is said of them.
    """
    points = [point for curve in curves.values() for point in curve]
    sizes = sorted({size for size, _ in points})
    low = math.floor(math.log10(min(value for _, value in points)))
    high = math.ceil(math.log10(max(value for _, value in points)))
    width, height = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x_of(size: float) -> float:
        return _LEFT + width * math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])

    def y_of(value: float) -> float:
        return _TOP + height * (high - math.log10(value)) / (high - low)

    drawing = Drawing(WIDTH, _HEIGHT)
    for decade in range(low, high + 1):
        y = y_of(10.0**decade)
        drawing.line([(_LEFT, y), (_LEFT + width, y)])
        drawing.text(_LEFT - 8, y, f"{10.0**decade:,g} {unit}", "dim", anchor="end")
    for size in ticks or sizes[::2]:
        drawing.text(x_of(size), _TOP + height + 18, tick(size), "dim")
    for said, size in (marks or {}).items():
        drawing.line([(x_of(size), _TOP), (x_of(size), _TOP + height)], "dashed")
        drawing.text(x_of(size) - 6, _TOP + 10, said, "dim small", anchor="end")
    ends = sorted((y_of(curve[-1][1]), name) for name, curve in curves.items())
    lowest = -math.inf
    for y, name in ends:
        drawing.line(
            [(x_of(size), y_of(value)) for size, value in curves[name]], styles.get(name, "whisker")
        )
        lowest = max(y, lowest + 16)  # names of lines that end close together stay apart
        drawing.text(_LEFT + width + 8, lowest, name, anchor="start")
    return drawing


def in_bytes(size: float) -> str:
    """Write a number of bytes: "64 KiB".

    Parameters
    ----------
    size : float
    """
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size:g} B"
