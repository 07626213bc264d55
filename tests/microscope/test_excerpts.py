"""The source beside the costs: which functions, which lines."""

from pathlib import Path

import numpy as np
import pytest
from numba import cuda

from llm_numba.microscope.excerpts import context, excerpts
from llm_numba.simulator import simulate


@cuda.jit(device=True)
def first(x):
    return x[0]


@cuda.jit(device=True)
def free(value):
    return value * value


def make(offset):
    @cuda.jit
    def kernel(x, y):
        """Two lines of documentation,

        which are not shown.
        """
        i = cuda.grid(1)
        # A comment stays.
        y[i] = free(first(x)) + offset

    return kernel


def run(kernel):
    x, y = np.ones(32, np.float32), np.zeros(32, np.float32)
    return excerpts(kernel, simulate(kernel, 1, 32, (x, y)))


def test_the_kernel_comes_first_without_docstring_and_indentation():
    kernel, *_ = run(make(1))
    assert [line.text for line in kernel.lines] == [
        "@cuda.jit",
        "def kernel(x, y):",
        "    i = cuda.grid(1)",
        "    # A comment stays.",
        "    y[i] = free(first(x)) + offset",
    ]
    assert kernel.file == __file__


def test_functions_follow_in_which_a_line_cost_something():
    _, *called = run(make(1))
    assert [each.lines[1].text for each in called] == ["def first(x):"]


def test_each_cost_stands_beside_its_line():
    kernel, device = run(make(1))
    costs = {line.text.strip(): line.cost for line in (*kernel.lines, *device.lines) if line.cost}
    assert {text: cost.global_requests for text, cost in costs.items()} == {
        "y[i] = free(first(x)) + offset": 1,
        "return x[0]": 1,
    }
    source = Path(__file__).read_text().splitlines()
    for line in kernel.lines:
        assert source[line.number - 1].strip() == line.text.strip()


def test_a_kernel_without_a_file_shows_its_costs_all_the_same():
    names = {"cuda": cuda}
    exec("@cuda.jit\ndef kernel(x, y):\n    y[0] = x[0]\n", names)
    found = run(names["kernel"])
    assert [(line.number, line.text) for each in found for line in each.lines if line.cost] == [
        (3, "")
    ]


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text("a = 1\nb = 2\n")
    assert context(str(path), [1])[0].text == "a = 1"
    path.write_text("changed = 3\nb = 2\n")
    assert context(str(path), [1])[0].text == "changed = 3"


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [([1], [1, 2, 3]), ([4], [2, 3, 4, 5, 6]), ([9], [7, 8, 9]), ([2, 8], [1, 2, 3, 4, 6, 7, 8, 9]),
     ([3, 4], [1, 2, 3, 4, 5, 6])],
)  # fmt: skip
def test_the_context_of_lines_stays_within_the_file(tmp_path, numbers, shown):
    path = tmp_path / "kernels.py"
    path.write_text("\n".join(f"    line {i}" for i in range(1, 10)) + "\n")
    assert [(line.number, line.text) for line in context(str(path), numbers)] == [
        (i, f"line {i}") for i in shown
    ]


def test_there_is_no_context_in_no_file():
    assert context("<string>", [3]) == []


def test_control_characters_become_visible(tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text("a = '\x1b[2J'\n\tb = 1\n")
    assert [line.text for line in context(str(path), [1])] == ["a = '?[2J'", "        b = 1"]
