"""What ``llm-numba bench gemm`` wrote, as pictures."""

from html import escape
from typing import Any

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.bench.gemm_tables import FLOPS_PER_CYCLE, PROJECTIONS, linears
from llm_numba.bench.report.page import Picture
from llm_numba.bench.report.pictures import Dot, roofline
from llm_numba.bench.tables import Results

_ROW, _TOP, _LEFT = 34, 24, 130


def shares(results: Results) -> Picture:
    """Draw shares of cuBLAS: a row for each projection, a column for each number of rows.

    Parameters
    ----------
    results : mapping of str to dict
        Of a record, by name.
    """
    found = [
        (each["shape"], results[f"of_cublas/{each['name']}"]["median"])
        for each in linears(results, "small", "projections")
        if f"of_cublas/{each['name']}" in results
    ]
    counts = sorted({shape["M"] for shape, _ in found})
    rows = [at for at in PROJECTIONS if any((s["N"], s["K"]) == at for s, _ in found)]
    drawing = Drawing(WIDTH, _TOP + _ROW * len(rows) + 6)
    width = (WIDTH - _LEFT) / len(counts)
    drawing.text(_LEFT - 8, 10, "M", "dim", anchor="end")
    for column, count in enumerate(counts):
        drawing.text(_LEFT + width * (column + 0.5), 10, f"{count:,}", "dim")
    for row, at in enumerate(rows):
        middle = _TOP + _ROW * (row + 0.5)
        drawing.text(_LEFT - 8, middle, PROJECTIONS[at], anchor="end")
    for shape, share in found:
        x = _LEFT + width * counts.index(shape["M"])
        y = _TOP + _ROW * rows.index((shape["N"], shape["K"]))
        style = "c" if share >= 1 else "b"
        # The further from cuBLAS, the fuller; a fifth is full.
        opacity = 0.1 + 0.8 * min(1.0, abs(share - 1) / 0.2)
        drawing.box(x + 1, y + 1, width - 2, _ROW - 2, f"{share:.2f}", style, opacity=opacity)
    values = [share for _, share in found]
    alt = (
        f"Share of cuBLAS of {len(found)} products, from {min(values):.2f} to {max(values):.2f}; "
        f"{sum(value >= 1 for value in values)} are at least as fast."
    )
    return Picture(drawing.svg(escape(alt, quote=True)), alt)


def under_the_roof(
    results: Results, read_gbps: float, capability: str, multiprocessors: int
) -> Picture:
    """Draw products under the roof of memory and tensor cores, at the clock that they ran at.

    Parameters
    ----------
    results : mapping of str to dict
    read_gbps : float
        How fast memory is read.
    capability : str
        Of the GPU.
    multiprocessors : int
        That it has.
    """
    groups = {
        name: [_dot(each) for each in linears(results, *parts)]
        for name, parts in {"8 to 128 rows": ("small",), "more": ("projections", "squares")}.items()
    }
    found = linears(results, "projections", "squares")
    clocks = [each["shape"]["sm_mhz"] for each in found if "sm_mhz" in each["shape"]]
    most = FLOPS_PER_CYCLE.get(capability, 0) * multiprocessors * 1e6 * max(clocks, default=0)
    return roofline(groups, 1e9 * read_gbps, most or None)


def _dot(each: dict[str, Any]) -> Dot:
    shape = each["shape"]
    return Dot(each["name"], shape["bytes"], shape["flops"], 1e-6 * shape["microseconds"])
