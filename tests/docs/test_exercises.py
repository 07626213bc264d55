"""The exercises' checker takes the solutions and refuses plausible mistakes."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "exercises"
DOCS = Path(__file__).parents[2] / "docs"
CHECKER = runpy.run_path(str(HERE / "check.py"))
NAMES = sorted(CHECKER["CHECKS"])


def answer(folder: str, name: str):
    return runpy.run_path(str(HERE / folder / f"{name}.py"))[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_checker_takes_a_right_solution(name):
    assert CHECKER["first_failure"](name, answer("solutions", name)) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_checker_refuses_a_plausible_mistake(name):
    assert CHECKER["first_failure"](name, answer("wrong", name))


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(HERE / "check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_says_whether_you_have_it():
    right = run("flatten", str(HERE / "solutions" / "flatten.py"))
    assert (right.returncode, right.stdout) == (0, "flatten is right\n")
    wrong = run("flatten", str(HERE / "wrong" / "flatten.py"))
    assert wrong.returncode == 1
    assert "positions" in wrong.stderr
    assert "should be" in wrong.stderr


def test_each_exercise_is_on_one_page():
    pages = "\n".join(page.read_text() for page in DOCS.glob("*/*.md"))
    assert sorted(re.findall(r"exercises/check\.py (\w+) ", pages)) == NAMES
