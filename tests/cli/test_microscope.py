"""``llm-numba microscope``: from the command line to the terminal, a picture, JSON, exit codes."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from llm_numba.kernels import transpose
from llm_numba.microscope import draw, examine, views

KERNELS = """
import numpy as np
from numba import cuda, float32

@cuda.jit("void(float32[:], float32[:])")
def race(x, y):
    shared = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    shared[t] = x[t]
    y[t] = shared[63 - t]

@cuda.jit
def far(x, y):
    y[cuda.threadIdx.x + 64] = x[cuda.threadIdx.x]

@cuda.jit
def right(x, y):
    y[cuda.threadIdx.x] = x[2 * cuda.threadIdx.x % 64]

def example():
    return 1, 64, (np.ones(64, np.float32), np.ones(64, np.float32))
"""


@pytest.fixture
def kernels(tmp_path):
    """A file with a right kernel and two wrong ones."""
    path = tmp_path / "kernels.py"
    path.write_text(KERNELS)
    return path


def test_without_a_kernel_the_ladders_are_listed(cli):
    shown = cli.invoke("microscope").stdout
    for step in transpose.LADDER.steps:
        assert f"  {step.name} " in shown
    names = json.loads(cli.invoke("microscope", "--json").stdout)
    assert names["transpose"] == ["naive", "tile", "padded", "swizzled", "vectorised"]


def test_a_ladder_is_shown_side_by_side(cli):
    result = cli.invoke("microscope", "transpose")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["naive", "256", "4,608", "18.0", "4.5x", "4.5x", "-", "-", "-", "-", "-"] in rows
    assert ["tile", "256", "1,024", "4.0", "1x", "1x", "256", "4,224", "16.5x", "32", "-"] in rows
    assert result.stderr == ""


def test_shape_dtype_steps_schedule_and_seed_reach_the_simulator(cli, monkeypatch):
    seen = []

    def spy(*args, **how):
        seen.append((args, how))
        return examine("transpose", (8, 8), steps=["tile"])

    monkeypatch.setattr("llm_numba.microscope.examine", spy)
    options = ["--shape", "33,40", "--dtype", "float16", "--step", "tile", "--step", "padded"]
    result = cli.invoke(
        "microscope", "transpose", *options, "--schedule", "random", "--seed", "3"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    ((args, how),) = seen
    assert args == ("transpose", [33, 40], "float16", ["tile", "padded"])
    assert (how["schedule"], how["seed"]) == ("random", 3)


def test_json_is_the_examination(cli):
    result = cli.invoke("microscope", "transpose", "--step", "tile", "--json")
    assert json.loads(result.stdout) == json.loads(
        json.dumps(examine("transpose", steps=["tile"]).to_json())
    )


def test_the_picture_goes_to_a_file(cli, tmp_path):
    svg = tmp_path / "new" / "tile.svg"
    result = cli.invoke("microscope", "transpose", "--step", "tile", "--svg", svg, "--json")
    assert result.exit_code == 0, result.output
    json.loads(result.stdout)
    assert f"Drawn: {svg}" in result.stderr
    assert svg.read_text() == draw(examine("transpose", steps=["tile"]))
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert [path.name for path in svg.parent.iterdir()] == ["tile.svg"]


def test_a_kernel_of_one_s_own(cli, kernels):
    result = cli.invoke("microscope", f"{kernels}:right")
    assert result.exit_code == 0, result.output
    assert any("y[cuda.threadIdx.x] = x[2" in line and line.startswith(">")
               for line in result.stdout.splitlines())  # fmt: skip


def test_arguments_from_another_file(cli, kernels, tmp_path):
    builder = tmp_path / "builder.py"
    builder.write_text("import numpy as np\ndef small():\n    return 1, 32, (np.ones(64),) * 2\n")
    shown = cli.invoke("microscope", f"{kernels}:right", "--args", f"{builder}:small").stdout
    assert "right[1, 32] in " in shown


# -- Findings -----------------------------------------------------------------------------------


def test_a_race_is_told_with_both_of_its_lines(cli, kernels):
    result = cli.invoke("microscope", f"{kernels}:race")
    assert result.exit_code == 2
    assert result.stdout == ""
    cause, remedy, file, *source = result.stderr.splitlines()
    assert cause.startswith(f"Error: {kernels}:10: ")
    assert remedy.startswith("  Fix: ")
    assert "syncthreads" in remedy
    assert file == str(kernels)
    marked = [line.split(maxsplit=2)[1:] for line in source if line.startswith(">")]
    assert marked == [["9", "shared[t] = x[t]"], ["10", "y[t] = shared[63 - t]"]]


def test_an_index_out_of_bounds_is_told_with_its_line(cli, kernels):
    result = cli.invoke("microscope", f"{kernels}:far")
    assert result.exit_code == 2
    marked = [line for line in result.stderr.splitlines() if line.startswith(">")]
    assert [line.split(maxsplit=2)[1] for line in marked] == ["14"]
    assert "Traceback" not in result.stderr


def test_a_wrong_result_exits_with_1_after_the_report(cli, monkeypatch):
    ladder = transpose.LADDER
    lying = {"expect": lambda x, out: {"out": np.zeros(out.shape)}}
    wrong = type(ladder)(**{**vars(ladder), **lying})
    monkeypatch.setattr(views, "find_ladder", lambda name: wrong)
    result = cli.invoke("microscope", "transpose", "--step", "tile")
    assert result.exit_code == 1
    assert "The result is WRONG" in result.stdout
    assert "tile " in result.stdout.splitlines()[-6]


# -- Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["transposed"], ["'transposed'", "transpose", "file.py:kernel"]),
     (["transpose", "--step", "tiles"], ["step", "tiles", "padded"]),
     (["transpose", "--dtype", "int8"], ["dtype", "int8", "bfloat16"]),
     (["transpose", "--shape", "64"], ["64", "M N"]),
     (["transpose", "--shape", "64,-3"], ["64,-3"]),
     (["transpose", "--shape", "64x64"], ["64x64", "--shape 64,48"]),
     (["transpose", "--schedule", "wild"], ["wild", "ordered"]),
     (["transpose", "--args", "a.py:f"], ["--args"]),
     (["nowhere/kernels.py:kernel"], ["nowhere/kernels.py"]),
     (["kernels.py"], ["kernels.py", "file.py:kernel"])],
)  # fmt: skip
def test_mistakes_are_a_cause_and_a_remedy(cli, arguments, words):
    cli.refuses("microscope", *arguments, words=words)


@pytest.mark.parametrize(
    "options", [["--shape", "3"], ["--dtype", "float16"], ["--step", "tile"]], ids=lambda o: o[0]
)
def test_options_of_a_ladder_do_not_go_with_a_file(cli, kernels, options):
    cli.refuses("microscope", f"{kernels}:right", *options, words=["--shape", "ladder"])


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_numba.microscope.examine", lambda *args, **how: 1 / 0)
    cli.refuses("microscope", "transpose", "--svg", tmp_path, words=[str(tmp_path), "another file"])


def test_a_shape_beyond_the_memory_is_refused(cli):
    sizes = "1000000000,1000000000"
    cli.refuses("microscope", "transpose", "--shape", sizes, words=["memory", "smaller"])


def test_a_negative_seed_is_wrong_usage(cli):
    result = cli.invoke("microscope", "transpose", "--seed", -1)
    assert (result.exit_code, result.stdout) == (2, "")


# -- Imports ------------------------------------------------------------------------------------


def imported(cli, *arguments):
    """Return the modules that a run of the command has imported."""
    source = (
        f"import sys; sys.argv = {['llm-numba', *arguments]!r}\n"
        "from llm_numba.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True, text=True, timeout=120, env=cli.environment | {"TERM": "dumb"},
    )  # fmt: skip
    return set(done.stderr.split())


def test_help_imports_neither_numba_nor_matplotlib(cli):
    assert not {"numba", "numpy", "matplotlib"} & imported(cli, "microscope", "--help")


def test_without_a_picture_matplotlib_is_not_imported(cli):
    modules = imported(cli, "microscope", "transpose", "--shape", "8,8", "--step", "naive")
    assert "llm_numba.microscope" in modules
    assert "matplotlib" not in modules


def test_a_pipe_gets_no_colours_and_whole_lines(cli):
    done = cli.run("microscope", "transpose", "--step", "tile", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "y[column + j, row + tx] = square[tx, j]" in done.stdout
    assert done.stderr == ""


def test_it_needs_no_gpu_and_no_setting(cli):
    environment = {"LLM_NUMBA_SIM": "0", "CUDA_VISIBLE_DEVICES": ""}
    done = cli.run("microscope", "transpose", "--step", "naive", **environment)
    assert done.returncode == 0, done.stderr
