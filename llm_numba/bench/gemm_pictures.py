"""What ``llm-numba bench gemm`` wrote, as pictures."""

from html import escape
from typing import Any

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.bench.gemm_pipeline import ROLES, Span
from llm_numba.bench.gemm_tables import FLOPS_PER_CYCLE, PROJECTIONS, linears
from llm_numba.bench.report.page import Picture
from llm_numba.bench.report.pictures import Dot, roofline
from llm_numba.bench.tables import Results

_ROW, _TOP, _LEFT = 34, 24, 130
_TRACK, _BOX, _ROLE = 44, 34, 90
_STYLES = {"waits": "soft", "copies": "b", "multiplies": "a", "stores": "c"}


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
        for name, parts in {
            "8 to 128 rows": ("small",),
            "512 rows and more": ("projections",),
        }.items()
    }
    found = linears(results, "projections")
    clocks = [each["shape"]["sm_mhz"] for each in found if "sm_mhz" in each["shape"]]
    most = FLOPS_PER_CYCLE.get(capability, 0) * multiprocessors * 1e6 * max(clocks, default=0)
    return roofline(groups, 1e9 * read_gbps, most or None)


def pipeline(picture: dict[str, Any]) -> Picture:
    """Draw what producer and consumers did around a change of tiles.

    Parameters
    ----------
    picture : dict
        Of the record, as :func:`.gemm_pipeline.measure` makes it.
    """
    spans = [Span(*each) for each in picture["spans"]]
    whole, slabs = max(each.until for each in spans), picture["slabs"]
    drawing = Drawing(WIDTH, _TOP + _TRACK * len(ROLES) + 24)
    scale = (WIDTH - _ROLE - 8) / whole
    for i, (what, style) in enumerate(_STYLES.items()):
        drawing.rect(_ROLE + 120 * i, 4, 12, 12, style, opacity=0.6)
        drawing.text(_ROLE + 120 * i + 18, 10, what, "dim", anchor="start")
    for row, role in enumerate(ROLES):
        drawing.text(_ROLE - 8, _TOP + _TRACK * row + _BOX / 2, role, anchor="end")
    for each in spans:
        x, width = _ROLE + each.since * scale, (each.until - each.since) * scale
        y = _TOP + _TRACK * ROLES.index(each.role)
        # Two slabs side by side differ, and so do the tiles that they are of.
        opacity = 0.35 + 0.3 * (each.slab % 2) if each.what == "multiplies" else 0.7
        number = str(each.slab % slabs) if each.what == "multiplies" and width > 18 else ""
        style = _STYLES[each.what]
        drawing.box(x, y, width, _BOX, number, style, text="small", opacity=opacity)
    bottom = _TOP + _TRACK * len(ROLES) + 8
    drawing.text(_ROLE, bottom, "0", "dim", anchor="start")
    drawing.text(WIDTH - 8, bottom, f"{whole:,} cycles", "dim", anchor="end")
    stores = [each for each in spans if each.what == "stores"]
    told = ", ".join(f"{each.role} {each.until - each.since:,} cycles" for each in stores)
    alt = f"The end of a tile of {slabs} slabs and the begin of the next. Storing takes: {told}."
    return Picture(drawing.svg(escape(alt, quote=True)), alt)


def _dot(each: dict[str, Any]) -> Dot:
    shape = each["shape"]
    return Dot(each["name"], shape["bytes"], shape["flops"], 1e-6 * shape["microseconds"])
