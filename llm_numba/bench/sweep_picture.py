"""What ``llm-numba bench sweep`` wrote, as a map of one kernel's times."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.bench.tables import figure

_ROW, _TOP, _LEFT = 40, 46, 170
_LETTERS = 24  # that have room to the left of the map


def describe(kernel: str, results: Sequence[dict[str, Any]]) -> str:
    """Tell in words what :func:`draw` shows.

    Parameters
    ----------
    kernel : str
    results : sequence of dict
    """
    best = min(results, key=lambda each: each["median"])
    return (
        f"Times of {kernel} by launch and limit on registers; the best is "
        f"{figure(best['median'])} µs with {best['shape']['config']}."
    )


def draw(results: Sequence[dict[str, Any]]) -> Drawing:
    """Draw a map.

    Parameters
    ----------
    results : sequence of dict
        Of the record, all of one kernel.
    """
    configs = list(dict.fromkeys(each["shape"]["config"] for each in results))
    limits = list(dict.fromkeys(each["shape"]["limit"] for each in results))
    drawing = Drawing(WIDTH, _TOP + _ROW * len(configs) + 6)
    width = (WIDTH - _LEFT) / len(limits)
    drawing.text(_LEFT - 8, 14, "at most this many registers", "dim", anchor="end")
    for column, limit in enumerate(limits):
        drawing.text(_LEFT + width * (column + 0.5), 14, str(limit or "own"), "dim")
    drawing.text(_LEFT - 8, 32, "µs, warps an SM holds", "dim", anchor="end")
    fastest = min(each["median"] for each in results)
    for row, config in enumerate(configs):
        lines = wrap(config, _LETTERS)
        for i, line in enumerate(lines):
            y = _TOP + _ROW * (row + 0.5) + (i - (len(lines) - 1) / 2) * 13
            drawing.text(_LEFT - 8, y, line, anchor="end")
    for each in results:
        found = each["shape"]
        x = _LEFT + width * limits.index(found["limit"])
        y = _TOP + _ROW * configs.index(found["config"])
        share = fastest / each["median"]
        spilled = " *" if found["local_bytes"] else ""
        lines = [f"{figure(each['median'])}{spilled}", f"{100 * found['occupancy']:.0f} %"]
        drawing.box(x + 1, y + 1, width - 2, _ROW - 2, lines, "a", opacity=max(0.05, share**3))
    return drawing
