"""Logs of compute-sanitizer become a record: how many findings, in how many tests."""

import json

import pytest
from typer.testing import CliRunner

from llm_numba.bench.sanitizer import read_run
from llm_numba.cli.app import app
from llm_numba.errors import LLMNumbaError

JUNIT = """<testsuites><testsuite timestamp="2030-01-31T12:00:00">
<testcase classname="tests.test_a" name="b" time="1"/>
<testcase classname="tests.test_a" name="c" time="1"/></testsuite></testsuites>"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
BAD = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at kernel+0x70
=========     by thread (31,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 3 errors
"""
NO_RACE = (
    "========= COMPUTE-SANITIZER\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors)\n"
)
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at kernel+0x70 and Read access
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


@pytest.fixture
def logs(tmp_path):
    def write(tool, *texts, junit=JUNIT):
        folder = tmp_path / tool
        folder.mkdir()
        for number, text in enumerate(texts):
            (folder / f"{number}.log").write_text(text)
        (folder / "junit.xml").write_text(junit)
        return folder

    return write


def test_findings_of_all_logs_are_added(logs):
    found = read_run(logs("memcheck", CLEAN, BAD, BAD))
    assert (found["findings"], found["logs"]) == (6, 3)
    assert found["first"] == ["Invalid __global__ write of size 4 bytes"] * 2
    assert found["tests"]["passed"] == 2


def test_hazards_are_findings(logs):
    found = read_run(logs("racecheck", NO_RACE, RACE))
    assert found["findings"] == 1
    assert found["first"][0].startswith("Error: Race reported")


def test_a_clean_run_has_none(logs):
    assert read_run(logs("memcheck", CLEAN)) | {"tests": None} == {
        "findings": 0, "first": [], "logs": 1, "tests": None
    }  # fmt: skip


def test_a_log_that_was_cut_short_is_no_clean_run(logs):
    with pytest.raises(LLMNumbaError, match=r"1\.log has no summary"):
        read_run(logs("memcheck", CLEAN, "========= COMPUTE-SANITIZER\n"))


def test_a_folder_without_logs_is_no_run(logs):
    with pytest.raises(LLMNumbaError, match="has no log"):
        read_run(logs("memcheck"))


def test_the_command_writes_a_record_of_every_tool(logs, tmp_path):
    logs("memcheck", CLEAN)
    logs("racecheck", RACE)
    out = tmp_path / "record.json"
    arguments = ["bench", "sanitizer", "--logs", str(tmp_path), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--commit", "abc", "--tests", "every third"])
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["settings"]["tests"] == "every third"
    assert [(run["name"], run["findings"]) for run in record["results"]] == [
        ("memcheck", 0), ("racecheck", 1)
    ]  # fmt: skip
    assert "racecheck: 1 findings in 2 tests" in result.stderr


def test_a_folder_of_no_tool_is_named(tmp_path):
    result = CliRunner().invoke(app, ["bench", "sanitizer", "--logs", str(tmp_path)])
    assert result.exit_code == 2
    assert "no folder named after a tool" in " ".join(result.stderr.split())
