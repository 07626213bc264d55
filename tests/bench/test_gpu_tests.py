"""A JUnit file becomes a record: counts by test file, and why tests were skipped."""

import json

import pytest
from typer.testing import CliRunner

from llm_numba.bench.gpu_tests import read_junit
from llm_numba.cli.app import app
from llm_numba.errors import LLMNumbaError

# As pytest 9 writes it, shortened.
JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="2"
tests="7" time="12.5" timestamp="2030-01-31T12:00:00.5+00:00" hostname="h">
<testcase classname="tests.kernels.test_softmax" name="test_a[block-cuda]" time="1.25" />
<testcase classname="tests.kernels.test_softmax" name="test_a[naive-cuda]" time="0.5">
<failure message="AssertionError: 1 != 2">trace</failure></testcase>
<testcase classname="tests.kernels.test_softmax" name="test_b" time="0.001">
<skipped type="pytest.skip" message="needs two GPUs">tests/x.py:1: needs two GPUs</skipped>
</testcase>
<testcase classname="tests.runtime.test_gpu.TestStreams" name="test_c" time="2" />
<testcase classname="tests.runtime.test_gpu" name="test_d" time="0.25">
<error message="failed on setup">trace</error></testcase>
<testcase classname="tests.runtime.test_gpu" name="test_e" time="0.125">
<failure message="x">trace</failure><error message="failed on teardown">t</error></testcase>
<testcase classname="tests.runtime.test_gpu" name="test_f" time="0">
<skipped type="pytest.skip" message="needs two GPUs">tests/x.py:1: needs two GPUs</skipped>
</testcase>
</testsuite></testsuites>
"""
SKIPPED_ONLY = """<testsuites><testsuite><testcase classname="tests.test_a" name="b" time="0">
<skipped message="no GPU"/></testcase></testsuite></testsuites>"""


@pytest.fixture
def junit(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text(JUNIT)
    return path


def test_outcomes_and_seconds_are_counted_by_file(junit):
    found = read_junit(junit)
    assert found["results"] == [
        {"name": "tests/kernels/test_softmax.py", "passed": 1, "failed": 1, "errors": 0,
         "skipped": 1, "seconds": 1.751},
        {"name": "tests/runtime/test_gpu.py", "passed": 1, "failed": 0, "errors": 2,
         "skipped": 1, "seconds": 2.375},
    ]  # fmt: skip
    assert found["totals"] == {
        "passed": 2, "failed": 1, "errors": 2, "skipped": 2, "seconds": 4.126
    }  # fmt: skip
    assert found["skipped_because"] == {"needs two GPUs": 2}
    assert found["started"] == "2030-01-31T12:00:00.5+00:00"


def test_the_command_writes_counts_and_machine(junit, tmp_path):
    out = tmp_path / "record.json"
    arguments = ["bench", "gpu-tests", "--junit", str(junit), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--commit", "abc"])
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["benchmark"] == "gpu_tests"
    assert record["totals"]["failed"] == 1
    assert record["environment"]["git"] == {"commit": "abc", "dirty": None}
    assert "gpus" in record["environment"]
    assert "2 passed" in result.stderr


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (SKIPPED_ONLY, "no test that passed"),
        ("<testsuites>", "is no XML"),
        (None, "cannot be read"),
    ],
    ids=["all skipped", "cut short", "missing"],
)
def test_what_is_no_run_on_a_gpu_is_no_record(tmp_path, text, cause):
    path = tmp_path / "junit.xml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LLMNumbaError, match=cause):
        read_junit(path)


def test_a_machine_without_a_gpu_must_name_the_file(junit, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(app, ["bench", "gpu-tests", "--junit", str(junit)])
    assert result.exit_code == 2
    assert "no NVIDIA GPU" in result.output
