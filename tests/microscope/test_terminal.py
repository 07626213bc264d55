"""The report in the terminal: at 80 columns, without colours, and with them."""

import inspect
import io
import re

import numpy as np
import pytest
from numba import cuda
from rich.console import Console

from llm_numba.kernels import transpose
from llm_numba.microscope import Examination, View, examine
from llm_numba.microscope.terminal import (
    print_context,
    print_examination,
    print_ladders,
    print_view,
)
from llm_numba.microscope.views import Agreement, observe
from llm_numba.runtime import Launch


def printed(print_it, *arguments, width=80, **how):
    """Return what a console of some width shows."""
    console = Console(file=io.StringIO(), width=width, highlight=False, **how)
    print_it(console, *arguments)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def tile():
    """The step of transpose with a conflict of 32 ways."""
    return examine("transpose", steps=["tile"])


@pytest.fixture(scope="module")
def ladder():
    """All of transpose."""
    return examine("transpose")


def number_of(kernel, text):
    """Return the number of the line of a kernel that holds some text."""
    lines, first = inspect.getsourcelines(kernel.py_func)
    return first + next(i for i, line in enumerate(lines) if text in line)


# -- Beside the source --------------------------------------------------------------------------


def test_the_figures_of_a_line_stand_before_it(tile):
    shown = printed(print_view, tile.views[0], width=120)
    load = number_of(transpose.tile, "square[j, tx] = x[")
    store = number_of(transpose.tile, "y[column + j, row + tx] =")
    # 128 requests: 512 sectors each way; the tile is written in 128 wavefronts, read in 4096.
    assert f"\n   128     512  128      128    1  {load}             square[j, tx] = x[" in shown
    assert f"\n>  128     512  128 4096/128   32  {store}             y[column + j" in shown
    assert "\n  global       shared\n  req. sectors req.  wavefr. ways\n" in shown


def test_a_line_that_wastes_is_marked_without_colours_too(ladder):
    marked = [line for line in printed(print_examination, ladder).splitlines() if line[:1] == ">"]
    assert len(marked) == 2  # the store of naive, and the read of the tile by columns
    assert "4608/1024" in marked[0]
    assert "4096/128" in marked[1]


def test_waste_is_red_where_there_are_colours(tile):
    shown = printed(print_examination, tile, force_terminal=True, color_system="standard")
    assert "\x1b[1;31m4096/128\x1b[0m" in shown
    assert re.search(r"^ +128 +512 +128 +128 +1 ", shown, re.MULTILINE)
    assert shown.count("\x1b[1;31m") == 4  # the mark, the figure; 16.5x and 32 in the summary


def test_a_little_waste_is_yellow():
    shown = printed(
        print_examination, examine("transpose", (33, 65), "float16", ["tile"]),
        force_terminal=True, color_system="standard",
    )  # fmt: skip
    assert re.search(r"\x1b\[33m225/165\x1b", shown)


def test_columns_without_figures_are_left_out(ladder):
    naive = printed(print_view, ladder.views[0])
    assert "sectors" in naive
    assert "shared\n" not in naive
    assert "div." not in naive


def test_branches_that_split_a_warp_stand_beside_the_branch():
    shown = printed(print_view, examine("row_sum", (2, 64), steps=["tree"]).views[0], width=120)
    assert re.search(r"^ +\d+ +\d+         if t < half:$", shown, re.MULTILINE)
    assert "div." in shown


def test_functions_that_cost_something_follow_with_their_file():
    (view,) = examine("softmax", (2, 64), steps=["block"]).views
    shown = printed(print_view, view)
    assert "softmax_block[2, 256] in " in shown
    assert re.search(r"called, in .*softmax_logits\.py:", shown)
    assert "def logit(" in shown


# -- Room ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transpose", "row_sum", "histogram", "softmax"])
def test_a_terminal_of_80_columns_is_enough(name):
    shape = {"softmax": (4, 256), "row_sum": (4, 256), "histogram": (1024, 64)}.get(name)
    shown = printed(print_examination, examine(name, shape), force_terminal=True, color_system=None)
    assert max(map(len, shown.splitlines())) <= 80
    # Not a figure, nor a word of the headings, is cut: only source is.
    assert "…" not in shown.rpartition("\n\n")[2]


def test_a_line_that_costs_something_is_broken_and_another_cut(tile):
    shown = printed(print_view, tile.views[0], force_terminal=True, color_system=None)
    assert re.search(r"square = cuda\.shared\.array\(.*…$", shown, re.MULTILINE)
    joined = re.sub(r"\n {30,}", " ", shown)
    assert "y[column + j, row + tx] = square[tx, j]" in re.sub(" +", " ", joined)


def test_a_pipe_gets_whole_lines(tile):
    shown = printed(print_view, tile.views[0])
    for line in inspect.getsource(transpose.tile.py_func).splitlines()[-7:]:
        assert line in shown
    assert "…" not in shown
    assert "\x1b" not in shown


# -- Side by side -------------------------------------------------------------------------------


def row(shown, name):
    line = next(each for each in reversed(shown.splitlines()) if each.startswith(name))
    return " ".join(line.split())


def test_the_steps_stand_side_by_side(ladder):
    shown = printed(print_examination, ladder)
    # Requests, sectors, a request, of ideal, of fewest; requests, wavefronts, of ideal, ways, div.
    assert row(shown, "naive ") == "naive 256 4,608 18.0 4.5x 4.5x - - - - -"
    assert row(shown, "tile ") == "tile 256 1,024 4.0 1x 1x 256 4,224 16.5x 32 -"
    assert row(shown, "padded ") == "padded 256 1,024 4.0 1x 1x 256 256 1x 1 -"
    assert row(shown, "swizzled ") == "swizzled 256 1,024 4.0 1x 1x 256 256 1x 1 -"


def test_without_a_ladder_there_is_no_fewest(tile):
    alone = Examination("kernels.py:tile", tile.views)
    shown = printed(print_examination, alone)
    assert "fewest\n" not in shown
    assert row(shown, "tile ") == "tile 256 1,024 4.0 1x 256 4,224 16.5x 32 -"


def test_what_a_block_takes_and_what_fits_on_an_sm(tile):
    shown = printed(print_view, tile.views[0])
    assert "Block: 256 threads, 4,096 bytes shared, 4 barriers in all." in shown
    # 64 warps of 32 threads and 32 registers are all 65536.
    assert "SM 9.0: 64 of 64 warps, 8 blocks (limit: warps), up to 32 registers a thread." in shown


def test_shared_memory_can_be_the_limit():
    @cuda.jit
    def wide(x):
        cuda.shared.array(0, np.float32)[cuda.threadIdx.x] = x[cuda.threadIdx.x]

    launch = Launch(wide, (1,), (32,), (np.ones(32, np.float32),), 100 * 1024)
    shown = printed(print_view, View("wide", "", (launch,), (observe(launch),)))
    assert "2 of 64 warps, 2 blocks (limit: shared memory), up to 255 registers" in shown


# -- Results ------------------------------------------------------------------------------------


def test_a_wrong_result_is_told(copies):
    right, wrong = examine(copies).views
    assert "The result is equal to the reference's." in printed(print_view, right)
    shown = printed(print_view, wrong, width=120)
    assert "The result is WRONG: 3.9e-03 from the reference, where rounding explains 7.7" in shown


def test_a_result_within_rounding_says_how_near():
    view = View("step", "", (), (), Agreement(1.5e-7, 1e-6))
    assert "within 1.5e-07 of the reference" in printed(print_view, view)


def test_nothing_to_launch_is_told():
    (view,) = examine("transpose", (0, 3), steps=["tile"]).views
    assert "Nothing to launch for this shape." in printed(print_view, view)


def test_what_the_kernel_printed_is_text_not_markup():
    @cuda.jit
    def talk(x):
        if cuda.grid(1) == 0:
            print("[red]", x[0], "\x1b[2J")

    launch = Launch(talk, (1,), (32,), (np.ones(1),))
    shown = printed(print_view, View("talk", "", (launch,), (observe(launch),)))
    assert "The kernel printed:\n[red] 1.0 ?[2J\n" in shown


# -- Lists and faults ---------------------------------------------------------------------------


def test_ladders_are_listed_with_their_steps(copies):
    shown = printed(print_ladders, [copies])
    assert re.search(r"^copies +N = 256; float32, float64 *$", shown, re.MULTILINE)
    assert re.search(r"^  straight +Side by side\. *$", shown, re.MULTILINE)


def test_both_ends_of_a_race_are_marked(tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text("".join(f"line {i}\n" for i in range(1, 21)))
    shown = printed(print_context, [(str(path), 3), (str(path), 15)])
    lines = shown.splitlines()
    assert [line for line in lines if line[:1] == ">"] == [">    3 line 3", ">   15 line 15"]
    assert lines[0] == str(path)
    assert lines[6].strip() == "..."
    assert len(lines) == 12
