"""What the pages of the CUDA course put under the microscope, and what they draw."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.kernels.basics_bandwidth import AT_ONCE, read_strided
from llm_numba.kernels.basics_banks import stay
from llm_numba.kernels.basics_chase import make_ring
from llm_numba.kernels.basics_divergence import part
from llm_numba.kernels.basics_occupancy import occupancy
from llm_numba.microscope import Examination, View
from llm_numba.simulator import Report, simulate

_WARP = 32


def report_of_stride(stride: int, offset: int = 0) -> Report:
    """Simulate one warp that reads with a stride."""
    count = _WARP * AT_ONCE
    x = np.zeros(stride * count + offset, np.float32)
    args = (x, stride, offset, count, np.zeros(_WARP, np.float32))
    return simulate(read_strided, 1, _WARP, args)


def report_of_banks(stride: int) -> Report:
    """Simulate one warp that reads shared words with a stride."""
    args = (stride, 1, np.zeros(_WARP, np.uint32), np.zeros(2, np.int64))
    return simulate(stay, 1, _WARP, args)


def report_of_paths(paths: int, group: int) -> Report:
    """Simulate two warps of which groups of lanes go several ways."""
    args = (paths, group, 1, np.zeros(2 * _WARP, np.float32), np.zeros(2, np.int64))
    return simulate(part, 1, 2 * _WARP, args)


def _side_by_side(title: str, reports: Iterable[tuple[str, Report]]) -> Examination:
    return Examination(title, tuple(View(name, "", (), (report,)) for name, report in reports))


def strides() -> Examination:
    """Look at strides of 1, 2 and 8, and at a first word that begins in the middle of a sector."""
    cases = [(f"stride {stride}", report_of_stride(stride)) for stride in (1, 2, 8)]
    return _side_by_side("read_strided", [*cases, ("from word 1 on", report_of_stride(1, 1))])


def banks() -> Examination:
    """Look at strides of 1, 2, 8, 32 and 33 words."""
    cases = ((f"stride {stride}", report_of_banks(stride)) for stride in (1, 2, 8, 32, 33))
    return _side_by_side("stay", cases)


def chase_example() -> tuple[int, int, tuple[Any, ...]]:
    """Walk once around a ring of 32 lines."""
    return 1, 1, (make_ring(4096), 32, np.zeros(1, np.uint32), np.zeros(2, np.int64))


def paths_example() -> tuple[int, int, tuple[Any, ...]]:
    """Let the lanes of two warps go four ways."""
    return 1, 64, (4, 1, 1, np.zeros(64, np.float32), np.zeros(2, np.int64))


def warps_example() -> tuple[int, int, tuple[Any, ...]]:
    """Let two warps go one way each."""
    return 1, 64, (2, 32, 1, np.zeros(64, np.float32), np.zeros(2, np.int64))


def clear_example() -> tuple[int, int, tuple[Any, ...]]:
    """Clear 256 counts."""
    return 1, 256, (np.ones(256, np.int32),)


def grind_example() -> tuple[int, int, tuple[Any, ...]]:
    """Grind 1024 elements."""
    return 4, 256, (np.ones(1024, np.float32), 8)


def resident() -> Drawing:
    """Draw the places for warps of an SM, and which of them blocks of 256 threads take."""
    cases = [(32, 0), (64, 0), (128, 0), (255, 0), (32, 100 * 1024)]
    cell, row, left, top = 6.2, 34, 218, 30
    drawing = Drawing(WIDTH, top + row * len(cases) + 6)
    drawing.text(left, 12, "64 places for warps; a colour is a block", "dim small", anchor="start")
    for i, (registers, shared_bytes) in enumerate(cases):
        found = occupancy(256, registers, shared_bytes, (9, 0))
        y = top + row * i
        said = f"{registers} registers"
        if shared_bytes:
            said += f", {shared_bytes >> 10} KiB shared"
        drawing.text(left - 10, y + 12, said, anchor="end")
        a_block = found.warps // found.blocks
        for place in range(found.max_warps):
            style = "ab"[place // a_block % 2] if place < found.warps else "soft"
            drawing.rect(left + cell * place, y, cell - 1.2, 24, style, radius=1)
    return drawing


def launching() -> Drawing:
    """Draw the host and the GPU: launched one by one, and as a graph."""
    drawing = Drawing(WIDTH, 210)
    for y, title in ((8, "one by one"), (118, "as a graph")):
        drawing.text(8, y + 6, title, "strong", anchor="start")
        drawing.text(8, y + 32, "host", anchor="start")
        drawing.text(8, y + 68, "GPU", anchor="start")
    for i in range(5):
        x = 60 + 110 * i
        drawing.box(x, 28, 100, 24, f"launch {i}", "a", text="small", opacity=0.25)
        drawing.box(x + 100, 64, 30, 24, str(i), "b", text="small", opacity=0.3)
    drawing.box(60, 138, 60, 24, "launch", "a", text="small", opacity=0.25)
    for i in range(5):
        drawing.box(120 + 32 * i, 174, 30, 24, str(i), "b", text="small", opacity=0.3)
    return drawing
