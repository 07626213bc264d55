"""The picture: its figures, its legibility, its bytes."""

import math
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text

from llm_numba.kernels.basics import saxpy_thread
from llm_numba.microscope import (
    Examination,
    View,
    compare,
    describe,
    draw,
    drawing,
    examine,
    picture,
)
from llm_numba.simulator import LineReport, Report, Request, simulate

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


STEPS = ["naive", "tile", "padded", "swizzled"]


@pytest.fixture(scope="module")
def ladder():
    """Four steps of transpose."""
    return examine("transpose", steps=STEPS)


@pytest.fixture(scope="module")
def card(ladder):
    """Its picture on a card."""
    return draw(ladder)


@pytest.fixture(scope="module")
def themed(ladder):
    """Its picture in the colours of a page."""
    return draw(ladder, themed=True)


def many(count):
    """Return an examination of many steps."""
    (view,) = examine("transpose", (8, 8), steps=["tile"]).views
    views = [View(f"step_{i}", "", view.launches, view.reports) for i in range(count)]
    return Examination("many", tuple(views))


def laid_out(examination):
    """Return the picture before it is saved."""
    with drawing.style():
        return drawing.figure(examination, card=True)


def panels(examination, label):
    """Return the panels of a picture with a given label below, from left to right."""
    figure = laid_out(examination)
    return [axes for axes in figure.axes if axes.get_xlabel() == label]


def cells(axes):
    """Return the cells of a panel: (lane, column) and colour."""
    found = {}
    for collection in axes.collections:
        assert isinstance(collection, PatchCollection)
        colour = to_hex(collection.get_facecolor()[0])
        for path in collection.get_paths():
            column, lane = path.vertices.min(axis=0)
            assert (lane, column) == (round(lane), round(column))
            found[round(lane), round(column)] = colour
    return found


# -- What it shows ------------------------------------------------------------------------------


def test_the_banks_of_each_step(ladder):
    naive, tile, padded, swizzled = (cells(axes) for axes in panels(ladder, "bank"))
    assert naive == {}
    assert {lane for lane, _ in tile} == set(range(32))
    assert len({bank for _, bank in tile}) == 1
    assert set(tile.values()) == {drawing.BAD}
    for free in (padded, swizzled):
        assert {lane for lane, _ in free} == {bank for _, bank in free} == set(range(32))
        assert len(free) == 32
        assert set(free.values()) == {drawing.GOOD}
    assert set(padded) != set(swizzled)
    # A warp reads one column: padding turns it, the swizzle flips it.
    assert len({(bank - lane) % 32 for lane, bank in padded}) == 1
    assert len({bank ^ lane for lane, bank in swizzled}) == 1


def test_the_sectors_of_each_step(ladder):
    naive, *others = (cells(axes) for axes in panels(ladder, "sector"))
    assert set(naive) == {(lane, lane) for lane in range(32)}
    assert set(naive.values()) == {drawing.BAD}
    for whole in others:
        assert set(whole) == {(lane, lane // 8) for lane in range(32)}
        assert set(whole.values()) == {drawing.GOOD}


def test_moved_and_used_bytes_are_drawn_to_scale(ladder):
    naive, tile, *_ = panels(ladder, "sector")
    for axes, moved, used in ((naive, 32, 4), (tile, 4, 4)):
        bars = [patch.get_width() for patch in axes.patches if patch.get_y() > 32]
        assert bars == [moved, used]


@pytest.mark.parametrize(("size", "parts"), [(4, []), (8, [16]), (16, [8, 16, 24])])
def test_wide_accesses_are_parted_where_the_hardware_parts_them(size, parts):
    request = Request("shared", "load", tuple(size * lane for lane in range(32)), size, 1)
    report = Report("k", (1, 1, 1), (32, 1, 1), [LineReport("k.py", 3, worst_shared=request)])
    (axes,) = panels(Examination("wide", (View("k", "", (), (report,)),)), "bank")
    across = [line.get_ydata() for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert [first for first, _ in across] == parts
    assert set(cells(axes).values()) == {drawing.GOOD}


def test_bars_have_the_length_of_the_totals(ladder):
    figure = laid_out(ladder)
    sectors, wavefronts = (axes for axes in figure.axes if len(axes.containers) == 8)
    for axes, name, ideal in ((sectors, "global_sectors", "ideal_sectors"),
                              (wavefronts, "shared_wavefronts", "ideal_wavefronts")):  # fmt: skip
        bars = [container[0] for container in axes.containers]
        for view, best, excess in zip(ladder.views, bars[::2], bars[1::2], strict=True):
            assert best.get_width() == getattr(view.total, ideal)
            assert best.get_width() + excess.get_width() == getattr(view.total, name)
            assert excess.get_x() == best.get_width()
    (fewest,) = [line for line in sectors.lines if line.get_linestyle() == "--"]
    assert fewest.get_xdata()[0] == 2 * 64 * 64 * 4 / 32


def test_the_figures_are_written_out(ladder):
    words = {text.get_text() for text in shown(laid_out(ladder))}
    assert {"transpose, float32, M=64, N=64", "naive", "tile", "padded", "swizzled"} <= words
    assert {"4,608  (4.5x)", "4,224  (16.5x)", "1,024", "256", "none"} <= words
    assert {"32 wavefronts, ideally 1", "1 wavefront, ideally 1"} <= words
    assert {"1,024 bytes moved, 128 used", "128 bytes moved, 128 used"} <= words
    assert any(re.fullmatch(r"store, line \d+: 32 sectors", each) for each in words)
    assert any(re.fullmatch(r"load, line \d+: 32 ways", each) for each in words)


def test_a_reader_who_cannot_see_it_is_told_the_figures(ladder, card):
    root = ElementTree.fromstring(card)
    assert root.get("role") == "img"
    assert root.get("aria-label") == describe(ladder)
    assert root.find(f"{SVG}title").text == "transpose, float32, M=64, N=64"
    naive, tile, padded, _ = describe(ladder).split(". ")
    assert re.search(r"naive: a store \(transpose.py, line \d+\) moves 32 sectors", naive)
    assert "1,024 bytes for 128; all requests 4,608 sectors, ideally 1,024" in naive
    assert "shared" not in naive
    assert "takes 32 wavefronts of shared memory, 32 ways" in tile
    assert "all requests 4,224 wavefronts, ideally 256" in tile
    assert "takes 1 wavefront of shared memory, 1 way;" in padded
    nothing = Examination("nothing", (View("idle", "", (), ()),))
    assert describe(nothing) == "idle: no memory is touched."


def test_other_shapes_dtypes_and_steps_are_drawn_as_asked():
    svg = picture("transpose", (33, 40), "float16", ["tile"])
    assert svg == draw(examine("transpose", (33, 40), "float16", ["tile"]))
    assert "transpose, float16, M=33, N=40" in svg
    assert "swizzled" not in svg


# -- How it looks -------------------------------------------------------------------------------


def shown(figure):
    """Return every text of a figure that a reader sees."""
    with drawing.style():
        FigureCanvasAgg(figure).draw()
    return [
        text
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and text.get_window_extent().width
    ]


CASES = {
    "transpose": lambda: examine("transpose"),
    "row_sum": lambda: examine("row_sum", (4, 256)),
    "one step": lambda: examine("transpose", steps=["tile"]),
    "two steps": lambda: examine("histogram", (1024, 64)),
    "no shared memory": lambda: examine("saxpy", (256,)),
    "seven steps": lambda: many(7),
    "nothing": lambda: Examination("nothing", (View("idle", "", (), ()),)),
}


@pytest.mark.parametrize("case", CASES)
def test_no_words_overlap_leave_the_page_or_are_too_small(case):
    figure = laid_out(CASES[case]())
    texts = shown(figure)
    page = figure.bbox
    boxes = {}
    for text in texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
        assert text.get_fontsize() >= 8
        boxes[text] = box
    for one, other in combinations(texts, 2):
        # Boxes reach half a point around their letters.
        overlap = boxes[one].padded(-0.5).overlaps(boxes[other].padded(-0.5))
        assert not overlap, (one, other)


def test_panels_go_to_another_row_when_there_are_many():
    seven = panels(many(7), "bank")
    rows = {round(axes.get_position().y0, 3) for axes in seven}
    assert len(rows) == 2
    assert len({round(axes.get_position().x0, 3) for axes in seven}) == 5


def test_heat_grows_with_the_conflict():
    def heat(dtype):
        (axes,) = panels(examine("transpose", dtype=dtype, steps=["tile"]), "bank")
        return max(collection.get_alpha() for collection in axes.collections)

    assert heat("float32") == 1  # 32 ways
    assert 0.45 < heat("float16") < 1  # 16
    assert heat("float16") == pytest.approx(0.45 + 0.55 * math.log2(16) / 5)


# -- Its bytes ----------------------------------------------------------------------------------


def test_the_same_costs_give_the_same_bytes_in_another_process(card):
    source = "from llm_numba.microscope import picture\n"
    source += f"print(picture('transpose', steps={STEPS}), end='')"
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == card


def test_it_says_neither_when_nor_with_what_it_was_made(card):
    assert "matplotlib" not in card.lower()
    assert not re.search(r"20\d\d-\d\d", card)


def test_it_is_one_element_that_asks_for_nothing_elsewhere(card, themed):
    for svg in (card, themed):
        assert svg.startswith("<svg")
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert len(svg) < 250_000
        for element in root.iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith("#")


def test_every_name_in_it_is_referred_to_and_unique(card):
    names = re.findall(r' id="([^"]+)"', card)
    assert len(names) == len(set(names))
    assert set(names) <= set(re.findall(r'#([^)"]+)', card))


def test_a_card_is_white_and_a_themed_picture_takes_the_page_s_colours(card, themed):
    assert "fill: #ffffff" in card
    assert "var(" not in card
    assert "#ffffff" not in themed
    variables = set(re.findall(r"var\((--draw-[a-z]+)\)", themed))
    assert variables == {"--draw-text", "--draw-dim", "--draw-line", "--draw-a", "--draw-b"}
    assert not re.search("fill: #|stroke: #", themed)
    stylesheet = (ROOT / "llm_numba/bench/drawing.css").read_text()
    assert all(f"{name}:" in stylesheet for name in variables)


def test_settings_of_the_user_change_nothing(ladder, card, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    monkeypatch.setitem(matplotlib.rcParams, "font.weight", "bold")
    assert draw(ladder) == card
    assert matplotlib.rcParams["font.size"] == 30


def test_names_with_markup_are_text():
    name = 'a<b>&"c"'
    root = ElementTree.fromstring(draw(Examination(name, (View(name, "", (), ()),))))
    assert root.find(f"{SVG}title").text == name
    assert root.get("aria-label").startswith(f"{name}: ")


def test_reports_are_compared_without_a_ladder_and_shown_by_a_notebook():
    x, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    reports = {
        name: simulate(saxpy_thread, blocks, 32, (np.float32(1), x, x, out))
        for name, blocks in {"half": 1, "whole": 2}.items()
    }
    seen = compare("Two grids", reports)
    root = ElementTree.fromstring(seen)
    assert root.find(f"{SVG}title").text == "Two grids"
    assert "half: " in root.get("aria-label")
    assert "all requests 24 sectors, ideally 24" in root.get("aria-label").partition("whole: ")[2]
    assert seen._repr_html_() == f'<div class="picture">{seen}</div>'
