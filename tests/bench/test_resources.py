"""The record of what kernels take of a GPU: which rows it has, and what is in one."""

import json

import pytest
from typer.testing import CliRunner

from llm_numba.bench import resources as bench
from llm_numba.bench.record import read_record
from llm_numba.cli.app import app
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.ladder import all_ladders
from llm_numba.runtime.offline import Resources, capability_name, compiler_problem


@pytest.fixture
def _no_compiler(monkeypatch):
    """Stand in for the compiler: registers are ten times the major capability."""

    def resources(launch, capability):
        name = capability_name(capability)
        kernel = launch.kernel.py_func.__name__
        return Resources(kernel, "", name, 10 * capability[0], 4 + launch.shared_bytes, 8, 1, 2, ())

    monkeypatch.setattr(bench, "resources", resources)


@pytest.mark.usefixtures("_no_compiler")
def test_every_step_in_every_format_has_a_row():
    rows = {(row["ladder"], row["step"], row["dtype"]) for row in bench.measure()}
    assert rows == {
        (ladder.name, step.name, dtype)
        for ladder in all_ladders().values()
        for step in ladder.steps
        for dtype in ladder.dtypes
    }


@pytest.mark.usefixtures("_no_compiler")
def test_a_row_has_a_figure_for_each_capability_that_the_step_is_for():
    rows = {row["name"]: row for row in bench.measure(["row_sum"])}
    assert rows["row_sum/block/float32/block"]["registers"] == {
        "7.5": 70, "8.0": 80, "8.9": 80, "9.0": 90, "10.0": 100,
    }  # fmt: skip
    redux = rows["row_sum/redux/int32/redux"]  # redux.sync came with 8.0
    assert redux["registers"] == {"8.0": 80, "8.9": 80, "9.0": 90, "10.0": 100}
    assert redux["spill_bytes"]["9.0"] == 3
    assert redux["stack_bytes"]["9.0"] == 8
    assert redux["shared_bytes"] == 4


@pytest.mark.usefixtures("_no_compiler")
def test_a_long_row_may_have_a_kernel_of_its_own():
    kernels = {row["kernel"] for row in bench.measure(["softmax"]) if row["step"] == "vectorised"}
    assert kernels == {"softmax_held", "softmax_clustered"}


def test_there_is_no_such_ladder():
    with pytest.raises(LLMNumbaError, match="no kernel 'snakes'"):
        list(bench.measure(["snakes"]))


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason=str(compiler_problem()))
def test_the_compiler_is_asked():
    rows = list(bench.measure(["saxpy"]))
    assert all(1 <= count <= 255 for row in rows for count in row["registers"].values())
    assert not any(spilled for row in rows for spilled in row["spill_bytes"].values())


@pytest.mark.usefixtures("_no_compiler")
def test_the_command_writes_a_record_and_prints_it(tmp_path):
    path = tmp_path / "resources.json"
    arguments = ["bench", "resources", "--only", "transpose", "--out", str(path)]
    printed = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert printed.exit_code == 0
    record = read_record(path)
    assert record["benchmark"] == "resources"
    assert record["settings"]["only"] == ["transpose"]
    assert [row["name"] for row in record["results"]][:2] == [
        "transpose/naive/float32/naive",
        "transpose/naive/float16/naive",
    ]
    assert "transpose/swizzled/bfloat16/swizzled" in printed.stdout


@pytest.mark.usefixtures("_no_compiler")
def test_ladders_are_compiled_into_the_record_of_all(tmp_path, monkeypatch):
    """Rows may have the same name, for the step's kernel takes several kinds of arrays."""
    path = tmp_path / "resources.json"
    command = ["bench", "resources", "--only", "transpose,saxpy", "--out", str(path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = read_record(path)["results"]
    row = {"name": "of a version that is gone", "ladder": "saxpy"}
    record = read_record(path)
    record["results"] = [*before, row]
    path.write_text(json.dumps(record))
    done = CliRunner().invoke(app, ["bench", "resources", "--only", "saxpy", "--into", str(path)])
    assert done.exit_code == 0, done.stderr
    after = read_record(path)
    assert after["results"] == before
    assert [each["only"] for each in after["renewed"]] == [["saxpy"]]
    done = CliRunner().invoke(app, ["bench", "resources", "--into", str(path)])
    assert done.exit_code == 2
    assert "no part is named" in " ".join(done.stderr.split())
