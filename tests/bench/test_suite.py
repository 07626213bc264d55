"""``llm-numba bench all`` and ``bench multi``: what runs, what there is time for, what is told."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_numba.bench import suite_cases
from llm_numba.bench.suite import Case, Outcome, run
from llm_numba.bench.suite_cases import at_commit, of_all, of_ranks
from llm_numba.cli import bench_suite
from llm_numba.cli.app import app

ROOT = Path(__file__).parents[2]
VERSION = ("--version",)
WRONG = ("bench", "ranks", "--model", "nowhere/to be found", "--device", "cpu")

ALL_CASES = {f"ranks on {count} GPUs": of_ranks(count) for count in (0, 2, 4, 8)} | {
    f"all with {count} GPUs": of_all(["A GPU"] * count, "a CPU", compiles=True)
    for count in (0, 1, 2, 4)
}
ALL_CASES = {name: at_commit(found, "0123456789") for name, found in ALL_CASES.items()}


@pytest.mark.parametrize("found", ALL_CASES.values(), ids=ALL_CASES)
def test_all_cases_are_commands_that_there_are(found):
    for case in found:
        command = list(itertools.takewhile(lambda word: not word.startswith("-"), case.arguments))
        options = case.arguments[len(command) :]
        told = CliRunner().invoke(app, [*command, "--help"]).output
        for option in (each for each in options if each.startswith("-")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", told), case.title
        split = dict(itertools.pairwise(options))
        if case.benchmark == "ranks":
            assert int(split.get("--tp", 1)) * int(split.get("--pp", 1)) == case.ranks


def test_a_title_has_no_directories_of_this_machine():
    case = Case(2, ("profile", "-m", "a/b", "--out", "/here/and/there/profile.json"), 1)
    assert case.title == "2 ranks: profile -m a/b --out profile.json"


def test_each_case_is_of_another_record():
    for found in ALL_CASES.values():
        assert len({(case.ranks, case.arguments) for case in found}) == len(found)


def test_what_a_machine_can_measure_depends_on_its_gpus():
    def benchmarks(gpus, **how):
        return {case.benchmark for case in of_all(["A GPU"] * gpus, "a CPU", **how)}

    everywhere = {"cpu", "comm", "pipeline", "ranks", "simulator", "profile"}
    assert benchmarks(0) == everywhere
    assert benchmarks(0, compiles=True) == everywhere | {"resources"}
    of_one = {"kernels", "gemm", "engine", "machine", "start", "labs", "sweep", "counters"}
    assert benchmarks(1) == benchmarks(2) == everywhere | of_one


def test_ranks_of_gpus_take_the_place_of_those_of_the_cpu():
    def ranks(gpus):
        found = of_all(["A GPU"] * gpus, "a CPU")
        return [case for case in found if case.benchmark == "ranks"]

    assert ranks(1) == [case for case in of_ranks(0) if case.benchmark == "ranks"]
    assert ranks(2) == [case for case in of_ranks(2) if case.benchmark == "ranks"]


def test_a_case_for_which_there_is_no_time_is_not_begun():
    ticks = iter([0, 0, 60, 60, 60, 60])
    wanted = [Case(1, VERSION, 60), Case(1, VERSION, 50)]
    first, second = run(wanted, "mpirun", 100, os.environ, lambda: next(ticks))
    assert (first.problem, first.seconds) == ("", 60)
    assert second.problem == "it may take 50 s, and 40 s are left"


def test_a_shorter_one_behind_it_still_runs():
    wanted = [Case(1, VERSION, 5000), Case(1, VERSION, 60)]
    problems = [outcome.problem for outcome in run(wanted, None, 1000, os.environ)]
    assert problems == ["it may take 5000 s, and 1000 s are left", ""]


def test_what_a_case_says_last_is_told_and_the_next_one_runs():
    wanted = [Case(1, WRONG, 60), Case(1, VERSION, 60)]
    first, second = run(wanted, "mpirun", 1000, os.environ)
    assert first.problem.startswith("Error")
    assert second.problem == ""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("---\nmpirun has detected a root.\nat your own risk.\n---", "mpirun has detected a root."),
        ("Traceback (most recent call last):\n  File x\nValueError: no", "ValueError: no"),
        ("---\nError: It cannot.\n  Fix: Do.", "Error: It cannot."),
        ("", "exit code 3"),
    ],
)
def test_the_line_that_says_what_is_wrong_is_told(said, told, tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("llm_numba.bench.suite.sys.executable", str(program))
    (outcome,) = run([Case(1, (), 60)], None, 1000, os.environ)
    assert outcome.problem == told


def test_without_a_launcher_one_rank_runs_and_several_say_what_is_missing():
    wanted = [Case(2, VERSION, 60), Case(1, VERSION, 60)]
    several, one = run(wanted, None, 1000, os.environ)
    assert "there is no mpirun" in several.problem
    assert one.problem == ""


def test_a_case_that_does_not_end_is_ended():
    # No interpreter has come so far in this time.
    (outcome,) = run([Case(1, VERSION, 1e-3)], "mpirun", 1000, os.environ)
    assert outcome.problem == "it did not end within 0 s"


# -- What is told -------------------------------------------------------------------------------


def test_what_has_no_record_is_named_at_the_end_and_others_ran(monkeypatch):
    wanted = [Case(1, WRONG, 60), Case(1, VERSION, 60), Case(1, ("bench", "cpu"), 5000)]
    monkeypatch.setattr(suite_cases, "of_all", lambda *_, **__: wanted)
    done = CliRunner().invoke(app, ["bench", "all", "--limit", "300"])
    assert done.exit_code == 1
    told = done.stderr.split("1 of 3 records are written.")
    assert "--version: its record is written" in told[0]
    last = told[1].strip().splitlines()
    assert [each.partition(": Error")[0] for each in last[:1]] == [
        f"Not measured: {' '.join(WRONG)}"
    ]
    assert last[1].startswith("Not measured: bench cpu: it may take 5000 s")


def test_a_dry_run_says_what_would_run_and_runs_nothing(monkeypatch):
    monkeypatch.setattr("llm_numba.bench.suite.run", lambda *_: pytest.fail("it ran"))
    done = CliRunner().invoke(app, ["bench", "all", "--cpu", "--only", "comm,cpu", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert [line.split(maxsplit=2)[2] for line in done.stdout.splitlines()] == [
        "bench cpu", "2 ranks: bench comm", "4 ranks: bench comm",
    ]  # fmt: skip


def test_a_name_of_nothing_is_an_error():
    done = CliRunner().invoke(app, ["bench", "all", "--cpu", "--only", "kernels"])
    assert done.exit_code == 2
    assert "names nothing that this machine can measure" in done.stderr
    assert "simulator" in done.stderr


def test_ctrl_c_keeps_what_is_finished_and_names_the_rest(monkeypatch, capsys):
    wanted = [Case(1, VERSION, 60), Case(1, ("bench", "cpu"), 60), Case(1, ("bench", "comm"), 60)]

    def interrupted(*_):
        yield Outcome(wanted[0], "", 1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_numba.bench.suite.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_suite.run_all(wanted, 100)
    told = capsys.readouterr().err
    assert "1 of 3 records are written." in told
    assert re.findall(r"Not measured: (.*): interrupted", told) == ["bench cpu", "bench comm"]


def test_ctrl_c_ends_the_case_that_runs(tmp_path):
    """The signal reaches this program alone: the case must be ended by it."""
    program = """
import os, signal, sys
from llm_numba.bench import suite
# A shell's background has programs ignore the signal, and theirs in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
suite.sys = type("Sys", (), {"executable": sys.argv[1]})
case = suite.Case(1, (), 600)
list(suite.run([case], None, 1000, os.environ))
"""
    # In place of Python, a program that says its number and then does nothing.
    sleeper, said = tmp_path / "sleeper", tmp_path / "number"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {said}.new; mv {said}.new {said}; exec sleep 600\n")
    sleeper.chmod(0o755)
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(sleeper)], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    number = _read_when_there(said)
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def _read_when_there(path: Path) -> int:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(path.read_text())
