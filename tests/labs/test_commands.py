"""What `make lab`, `make hint` and `make grade` print, write and return."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from grader.cli import main
from grader.grades import grade, write_json, write_junit
from grader.hints import next_hint
from grader.mistakes import planted
from grader.run import run_lab
from grader.terminal import show_grades, show_lab
from rich.console import Console
from submissions import FIRST, first_lab, solution

ROOT = FIRST.parents[2]


def command(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the grader as `make` does."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(ROOT / "tutorials/labs/grader"), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_finished_lab_ends_with_0_and_an_unfinished_one_with_1():
    done = command("lab", 1, "--file", FIRST / "solution.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert "All steps are done: 14 of 14 points." in done.stdout
    begun = command("lab", 1)
    assert begun.returncode == 1
    assert "Step 1 is not written yet: line 23 raises NotImplementedError." in begun.stdout


def test_a_planted_mistake_can_be_tried_like_an_exercise():
    done = command("lab", 1, "--file", FIRST / "wrong" / "no_guard.py")
    assert done.returncode == 1
    assert "OutOfBoundsError in saxpy" in done.stdout


def test_a_failed_check_shows_the_reason_and_the_line(children, tmp_path):
    console = Console(width=100, file=io.StringIO())
    path = tmp_path / "no_guard.py"
    path.write_text(planted(FIRST / "wrong" / "no_guard.py"))
    show_lab(console, run_lab(first_lab(), path, children, stop=True))
    shown = console.file.getvalue()
    assert "OutOfBoundsError in saxpy" in shown
    assert "no_guard.py:" in shown
    assert "out[i] = alpha * x[i] + y[i]" in shown
    assert "make hint LAB=1" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lab", "99"), "There is no lab '99'"),
        (("lab", "one"), "There is no lab 'one'"),
        (("lab", "1", "--file", "nowhere.py"), "nowhere.py cannot be read"),
        (("grade", "1", "--dir", "nowhere"), "There is no folder nowhere"),
        (("grade", "1", "--key", "nowhere"), "The key nowhere cannot be read"),
        (("hint", "1", "--step", "9"), "Lab 1 has no step 9"),
        (("grade", "1", "--out", "nowhere/x.json"), "nowhere/x.json cannot be written"),
        (("grade", "1", "--junit", "."), ". cannot be written"),
        (("lab", "1", "--file", "a[/b].py"), "a[/b].py cannot be read"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert words in " ".join(said.err.split())
    assert "Traceback" not in said.err


def test_where_points_cannot_be_written_nobody_is_graded(monkeypatch, tmp_path):
    monkeypatch.setattr("grader.cli.grade", lambda *args, **how: 1 / 0)
    assert main(["grade", "1", "--out", str(tmp_path)]) == 2


def test_a_path_may_look_like_markup_and_its_text_begin_with_a_mark(children, tmp_path):
    """Notepad writes the mark; Python reads past it, and so do the rules and the simulator."""
    path = tmp_path / "a [" / "b].py"
    path.parent.mkdir()
    path.write_text(solution(), encoding="utf-8-sig")
    console = Console(width=200, file=io.StringIO())
    show_lab(console, run_lab(first_lab(), path, children, stop=True))
    assert "a [/b].py" in console.file.getvalue()
    assert "14 of 14 points" in console.file.getvalue()


def test_a_file_that_is_no_python_is_named_with_its_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def saxpy(:\n")
    assert main(["lab", "1", "--file", str(tmp_path / "mine.py")]) == 2
    said = capsys.readouterr()
    assert "line 1: this is not Python" in " ".join(said.out.split())
    assert "Traceback" not in said.out + said.err


@pytest.fixture(scope="module")
def graded(tmp_path_factory, children) -> dict[str, str]:
    """What grading a course of four writes."""
    folder = tmp_path_factory.mktemp("course")
    files = {
        "ada": solution(),
        "bob": planted(FIRST / "wrong" / "chunk_a_thread.py"),
        "eve": "import os\n",
    }
    for student, source in files.items():
        (folder / "in" / student).mkdir(parents=True)
        (folder / "in" / student / "lab01.py").write_text(source)
    (folder / "in" / "zoe").mkdir()
    (folder / "in" / ".git").mkdir()
    (folder / "in" / os.fsdecode(b"z\xff")).mkdir()
    results = grade([first_lab()], folder / "in", children, "secret")
    write_json(folder / "grades.json", results, hidden=True)
    write_junit(folder / "grades.xml", results)
    console = Console(width=100, file=io.StringIO())
    show_grades(console, results)
    written = {kind: (folder / f"grades.{kind}").read_text() for kind in ("json", "xml")}
    return written | {"out": console.file.getvalue()}


@pytest.mark.slow
def test_the_command_grades_what_make_hands_it(tmp_path):
    (tmp_path / "in" / "ada").mkdir(parents=True)
    (tmp_path / "in" / "ada" / "lab01.py").write_text(solution())
    (tmp_path / "key").write_text("secret\n")
    out = tmp_path / "grades.json"
    ended = command("grade", 1, "--dir", tmp_path / "in", "--out", out, "--key", tmp_path / "key")
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = [line.split() for line in ended.stdout.splitlines()[1:3]]
    assert rows == [["ada", "14", "14"], ["possible", "14", "14"]]
    data = json.loads(out.read_text())
    assert (data["hidden_data"], data["students"][0]["points"]) == (True, 14)


def test_a_course_is_graded_into_json(graded):
    data = json.loads(graded["json"])
    assert (data["format"], data["hidden_data"]) == ("llm_numba.labs/1", True)
    points = {each["student"]: each["points"] for each in data["students"]}
    assert points == {"ada": 14, "bob": 12, "eve": 0, "zoe": 0, os.fsdecode(b"z\xff"): 0}
    assert {each["possible"] for each in data["students"]} == {14}
    stride = data["students"][1]["labs"][0]["steps"][2]
    assert (stride["state"], stride["points"], stride["possible"]) == ("failed", 2, 4)
    assert "sectors" in stride["checks"][1]["message"]
    assert "`os` may not be imported" in data["students"][2]["labs"][0]["refused"][0]
    assert data["students"][3]["labs"][0]["refused"] == ["not handed in"]
    assert "secret" not in graded["json"] + graded["xml"] + graded["out"]


def test_a_course_is_graded_into_junit(graded):
    suites = ElementTree.fromstring(graded["xml"])
    counts = {each.get("name"): (each.get("tests"), each.get("failures")) for each in suites}
    assert counts["ada.lab01"] == ("8", "0")
    assert counts["bob.lab01"] == ("8", "1")
    failure = suites.find(".//failure")
    assert "sectors" in failure.text


def test_hints_come_one_after_another_and_then_all_together(tmp_path):
    lab = first_lab()
    hints = lab.folder / "hints.md"
    lab.folder = tmp_path
    (tmp_path / "hints.md").write_text(hints.read_text())
    console = Console(width=100, record=True, file=io.StringIO())

    def shown() -> str:
        console.print(next_hint(lab, 2))
        return console.export_text()

    first, second, third, after = (shown() for _ in range(4))
    assert "hint 1 of 3" in first
    assert "hint 2 of 3" in second
    assert "hint 3 of 3" in third
    assert all(f"hint {n} of 3" in after for n in (1, 2, 3))


@pytest.mark.slow
def test_watching_runs_the_checks_again_when_the_file_is_saved(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text((FIRST / "exercise.py").read_text())
    log = tmp_path / "log"
    with open(log, "w") as out:
        child = subprocess.Popen(
            [sys.executable, "-u", str(ROOT / "tutorials/labs/grader"), "lab", "1", "--watch",
             "--file", str(file)],
            stdout=out, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            wait_for(log, "Waiting for the file")
            file.write_text(solution())
            wait_for(log, "All steps are done")
        finally:
            child.kill()
            child.wait()


def wait_for(log: Path, words: str, patience_s: float = 120) -> None:
    end = time.monotonic() + patience_s
    while words not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
