"""Figures of the simulator's pages: a warp that parts and meets, banks, what happens inside."""

from itertools import pairwise

import numpy as np
from numba import cuda

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.simulator import simulate
from llm_numba.simulator.costs import BANKS
from llm_numba.simulator.lanes import WARP

# What the kernel below does, without its prints.
_LINES = (
    "if t < 12:",
    "    value = t * t",
    "else: value = -t",
    "for _ in range(t % 3): value += 1",
    "out[t] = value",
)


@cuda.jit
def _ways(out):
    """Print, at each of the lines above, who is there."""
    t = cuda.threadIdx.x
    print(0, t)
    if t < 12:
        value = t * t
        print(1, t)
    else:
        value = -t
        print(2, t)
    for _ in range(t % 3):
        value += 1
        print(3, t)
    print(4, t)
    out[t] = value


def divergence() -> Drawing:
    """Draw which lanes execute each line, in the order in which the simulator ran them."""
    steps = _groups(simulate(_ways, 1, WARP, (np.zeros(WARP, np.int64),)).printed)
    cell, row, left, top = 10.4, 24, 14, 42
    drawing = Drawing(WIDTH, top + row * len(steps) + 24)
    drawing.text(left, 10, "lane", "dim small", anchor="start")
    for lane in (0, 8, 16, 24, 31):
        drawing.text(left + cell * (lane + 0.5), 28, str(lane), "dim small")
    for i, (line, lanes) in enumerate(steps):
        y = top + row * i
        for lane in range(WARP):
            style = "a" if lane in lanes else "soft"
            drawing.rect(left + cell * lane, y, cell - 1.6, row - 6, style, radius=1)
        shown = _LINES[line].strip()
        drawing.text(left + cell * WARP + 14, y + 9, shown, "mono", anchor="start")
    below = top + row * len(steps) + 10
    drawing.text(left, below, "Time goes down. Blue lanes execute the line, the others wait.",
                 "dim small", anchor="start")  # fmt: skip
    return drawing


def _groups(printed: str) -> list[tuple[int, set[int]]]:
    """Put the lines that a group of threads printed together: its threads come in order."""
    steps: list[tuple[int, set[int]]] = []
    for text in printed.splitlines():
        line, thread = map(int, text.split())
        if not steps or steps[-1][0] != line or thread <= max(steps[-1][1]):
            steps.append((line, set()))
        steps[-1][1].add(thread)
    return steps


def banks() -> Drawing:
    """Draw a column of a tile in the 32 banks: rows of 32 words, and of 33."""
    cell, rows, left = 9.3, 12, 10
    drawing = Drawing(WIDTH, 76 + cell * rows + 20)
    width = cell * BANKS
    for x, pitch, title in (
        (left, BANKS, "rows of 32 words"),
        (WIDTH - left - width, BANKS + 1, "rows of 33 words"),
    ):
        drawing.text(x, 12, title, "strong", anchor="start")
        drawing.text(x + width, 12, "bank of each word", "dim small", anchor="end")
        for bank in (0, 8, 16, 24, 31):
            drawing.text(x + cell * (bank + 0.5), 34, str(bank), "dim small")
        column = {pitch * row for row in range(rows)}
        for word in range(BANKS * rows):
            y = 46 + cell * (word // BANKS)
            style = "b" if word in column else "soft"
            drawing.rect(x + cell * (word % BANKS), y, cell - 1.4, cell - 1.4, style, radius=1)
        met = max(np.bincount([word % BANKS for word in column]))
        said = f"column 0: {met} of these {rows} rows in the busiest bank"
        drawing.text(x, 58 + cell * rows, said, "dim small", anchor="start")
    return drawing


def inside() -> Drawing:
    """Draw the way from a kernel's source to a report."""
    stages = [
        ("a kernel's Python", "bytecode, as CPython compiles it"),
        ("Numba's typed IR", "one operation a statement, one type a variable"),
        ("blocks in running order", "each loop with a latch, device functions laid in"),
        ("a Python function a block", "registers are NumPy vectors, an entry a thread"),
        ("groups of threads", "part at branches, meet at blocks, wait at barriers"),
        ("an observer", "sees each access: costs, races, what was written"),
        ("a report, or a fault", "sums by source line"),
    ]
    drawing = Drawing(WIDTH, 54 * len(stages))
    for i, (what, how) in enumerate(stages):
        y = 8 + 54 * i
        drawing.box(14, y, 216, 36, what, "soft")
        drawing.text(246, y + 18, how, "dim", anchor="start")
    for upper, lower in pairwise(range(len(stages))):
        drawing.arrow([(122, 44 + 54 * upper), (122, 8 + 54 * lower)])
    return drawing
