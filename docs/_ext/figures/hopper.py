"""Figures of the page of the product on Hopper's tensor cores."""

import numpy as np

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.simulator.bulk import SWIZZLED_BYTES, swizzled

_PIECE = 16  # bytes
_STAGES, _SLABS = 4, 8


def swizzle() -> Drawing:
    """Draw eight rows of a tile, each of eight pieces of 16 bytes, straight and swizzled."""
    drawing = Drawing(WIDTH, 276)
    pieces = np.arange(8 * SWIZZLED_BYTES // _PIECE)
    layouts = {"straight": pieces, "swizzled": swizzled(pieces * _PIECE) // _PIECE}
    for side, (name, places) in enumerate(layouts.items()):
        left = 60 + 320 * side
        drawing.text(left, 12, name, "strong", anchor="start")
        for piece, place in zip(pieces.tolist(), places.tolist(), strict=True):
            row, column = divmod(place, 8)
            wanted = piece % 8 == 2
            x, y = left + 32 * column, 28 + 27 * row
            drawing.box(x, y, 30, 25, str(piece % 8), "a" if wanted else "soft", text="mono small")
        for row in range(8):
            drawing.text(left - 8, 44 + 27 * row, str(row), "dim small", anchor="end")
        drawing.text(left, 262, "banks 0 to 31, four a piece", "dim small", anchor="start")
    return drawing


def pipeline() -> Drawing:
    """Draw who has which of four stages over time: the producer, or the two consumers."""
    drawing = Drawing(WIDTH, 232)
    left, unit, rise = 96, 46, 30
    brought = [0.0] * _SLABS  # when a slab has come, and when it has been multiplied
    done = [0.0] * _SLABS
    for slab in range(_SLABS):
        begun = 0.45 * slab if slab < _STAGES else done[slab - _STAGES] + 0.1
        brought[slab] = begun + 1.9
        done[slab] = max(brought[slab], done[slab - 1] if slab else 0.0) + 1.2
        y = 14 + rise * (slab % _STAGES)
        x = left + unit * begun
        drawing.box(x, y, unit * 1.9 - 3, 22, f"copy {slab}", "b", text="mono small")
        x = left + unit * (done[slab] - 1.2)
        drawing.box(x, y, unit * 1.2 - 3, 22, f"{slab}", "a", text="mono small")
        y = 14 + rise * _STAGES + 16
        drawing.box(x, y, unit * 1.2 - 3, 22, f"{slab}", "a", text="mono small")
    for stage in range(_STAGES):
        drawing.text(left - 10, 30 + rise * stage, f"stage {stage}", "dim small", anchor="end")
    drawing.text(left - 10, 46 + rise * _STAGES, "tensor cores", "dim small", anchor="end")
    y = 14 + rise * (_STAGES + 1) + 34
    drawing.box(left, y, 40, 20, "", "b")
    drawing.text(left + 48, y + 15, "on its way: announced to full", "small", anchor="start")
    drawing.box(left + 290, y, 40, 20, "", "a")
    drawing.text(left + 338, y + 15, "multiplied: then free", "small", anchor="start")
    return drawing
