"""Records: what is in them, where they go, and that none is ever half-written."""

import json
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from llm_numba.bench import environment
from llm_numba.bench.record import (
    Result,
    default_path,
    make_record,
    read_record,
    renew,
    renewals,
    require_writable,
    write_record,
    write_text,
)
from llm_numba.bench.timing import summarize
from llm_numba.errors import LLMNumbaError


def result(median: float = 1.0, **target: float) -> Result:
    return Result("name", "what", summarize([median], "s"), {"batch": 2}, **target)


def test_record_says_what_where_when_and_how():
    record = json.loads(json.dumps(make_record("cpu", {"repeats": 3}, [result(at_most=2.0)])))
    assert record["schema"] == 1
    assert record["benchmark"] == "cpu"
    assert record["settings"] == {"repeats": 3}
    assert isinstance(record["command"], list)
    assert datetime.fromisoformat(record["date"]).utcoffset().total_seconds() == 0
    found = record["environment"]
    assert found["device"]["cores"] >= 1
    assert found["device"]["memory_bytes"] > 2**28
    assert found["packages"]["numpy"]
    assert found["blas"]["name"]
    assert record["results"] == [
        {"name": "name", "what": "what", "shape": {"batch": 2}, "unit": "s", "median": 1.0,
         "p10": 1.0, "p90": 1.0, "n": 1, "warmup": 0, "target": {"at_most": 2.0}}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "met"),
    [({}, None), ({"at_least": 1.0}, True), ({"at_least": 1.1}, False), ({"at_most": 1.0}, True),
     ({"at_most": 0.9}, False)],
)  # fmt: skip
def test_target_is_for_the_median(target, met):
    assert result(**target).meets_target is met


def test_result_without_a_target_has_none_in_its_json():
    assert "target" not in result().to_json()


def test_path_is_the_same_on_every_run_of_one_machine():
    path = default_path("cpu", "Intel(R) Core(TM) i7-1165G7 @ 2.80GHz 2 cores")
    assert path.name == "cpu_intel-core-i7-1165g7-2.80ghz-2-cores.json"
    assert path.parent == Path(__file__).parents[2] / "docs" / "results"


def test_writing_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "record.json"
    write_record(path, {"a": 1})
    write_record(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert list(path.parent.iterdir()) == [path]


def test_record_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_record(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_record_is_read_as_it_was_written(tmp_path):
    record = make_record("cpu", {}, [result()])
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json") == record


def run_of(commit, **medians):
    return {
        "date": f"2030-01-0{commit}", "command": [f"run {commit}"], "settings": {"repeats": commit},
        "environment": {"gpus": ["card"], "packages": {"a": "1"}, "git": {"commit": f"c{commit}"}},
        "results": [{"name": name, "median": median} for name, median in medians.items()],
    }  # fmt: skip


def test_a_part_that_was_measured_again_replaces_what_it_names_and_says_so():
    record = run_of(1, copy=3.0, gemv=1.0, norm=2.0)
    renewed = renew(record, run_of(2, copy=2.9, gemv=1.5, gemm=9.0), ["gemv", "gemm"], ["copy"])
    medians = {each["name"]: each["median"] for each in renewed["results"]}
    assert medians == {"copy": 3.0, "gemv": 1.5, "norm": 2.0, "gemm": 9.0}
    assert renewed["environment"]["git"]["commit"] == "c1"
    assert [(each["only"], each["commit"]) for each in renewed["renewed"]] == [
        (["gemv", "gemm"], "c2")
    ]
    assert renewed["renewed"][0]["kept"] == {"copy": {"name": "copy", "median": 2.9}}
    assert "renewed" not in record
    again = renew(renewed, run_of(3, gemm=9.5), ["gemm"])
    assert [each["commit"] for each in again["renewed"]] == ["c2", "c3"]
    assert renewals(record) == ""
    assert renewals(renewed) == "; `gemv`, `gemm` measured again at commit `c2`, 2030-01-02"


@pytest.mark.parametrize(("name", "other"), [("gpus", ["another"]), ("packages", {"a": "2"})])
def test_a_part_that_was_measured_elsewhere_is_refused(name, other):
    newer = run_of(2, gemv=1.5)
    newer["environment"][name] = other
    with pytest.raises(LLMNumbaError, match=f"The record's {name} are not"):
        renew(run_of(1, gemv=1.0), newer, ["gemv"])


@pytest.mark.parametrize("text", [None, "{", "[]", '{"schema": 1}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LLMNumbaError, match="record"):
        read_record(path)


@pytest.mark.parametrize("write", [require_writable, lambda path: write_text(path, "")])
@pytest.mark.parametrize("name", [".", "file/below"])
def test_place_that_cannot_be_written(tmp_path, write, name):
    (tmp_path / "file").touch()
    with pytest.raises(LLMNumbaError, match="cannot be written"):
        write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writable_place_is_left_as_it_was(tmp_path):
    require_writable(tmp_path / "record.json")
    assert list(tmp_path.iterdir()) == []


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_names_the_commit_and_tells_of_changes(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "new").touch()
    assert environment.git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("b")
    assert environment.git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_a_copy_without_git_can_be_told_its_commit():
    record = make_record("cpu", {}, [], commit="abc")
    assert record["environment"]["git"] == {"commit": "abc", "dirty": None}


def test_no_checkout_is_no_git_state(tmp_path):
    assert environment.git_state(None) is None
    assert environment.git_state(tmp_path) is None


def test_blas_threads_are_those_that_were_asked_for():
    # conftest.py asks for one; other BLAS libraries than OpenBLAS do not answer.
    assert environment.blas()["threads"] in (1, None)


@pytest.mark.parametrize(
    ("argv", "command"),
    [(["/x/llm_numba/__main__.py", "bench", "cpu"], ["llm-numba", "bench", "cpu"]),
     (["/x/bin/llm-numba", "bench"], ["llm-numba", "bench"]),
     (["/x/bin/llm-numba", "bench", "--out", "/x/y/z.json"],
      ["llm-numba", "bench", "--out", "z.json"]),
     (["/x/pytest", "-q"], ["pytest", "-q"])],
)  # fmt: skip
def test_command_is_told_as_a_person_types_it(monkeypatch, argv, command):
    monkeypatch.setattr("sys.argv", argv)
    assert environment.command_line() == command
