"""Every tutorial is built alike; that each runs to its end, the build of the site shows.

What a tutorial does where there is a GPU, only a run on one shows.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))


def test_tutorials_are_numbered_without_a_gap():
    numbers = [int(path.name[:2]) for path in TUTORIALS]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.fixture(params=TUTORIALS, ids=lambda path: path.stem)
def tutorial(request) -> str:
    return request.param.read_text()


def sections(text: str) -> list[str]:
    return re.findall(r"^# (.+)\n# -{3,}$", text, re.MULTILINE)


def test_a_tutorial_begins_with_a_title_as_wide_as_its_line(tutorial):
    title, line, *_ = ast.get_docstring(ast.parse(tutorial)).splitlines()
    assert line == "=" * len(title)
    for heading in sections(tutorial):
        assert f"# {heading}\n# {'-' * len(heading)}\n" in tutorial


def test_a_tutorial_ends_with_one_thing_to_try_after_a_picture(tutorial):
    assert sections(tutorial)[-1] == "One thing to try"
    shown = re.search(r"^(compare|picture|draw)\(|set_label\(", tutorial, re.MULTILINE)
    assert shown
    assert shown.start() < tutorial.index("# One thing to try")


def test_what_needs_a_gpu_has_one_name_and_says_why_it_is_left_out(tutorial):
    """So a reader finds it, and the test below knows it."""
    assert ("On a GPU, if there is one" in sections(tutorial)) == ("gpu_problem" in tutorial)
    if 'else "cuda"' not in tutorial:  # or the same lines run in the simulator
        assert tutorial.count("gpu_problem()") == len(re.findall(NOT_RUN, tutorial))


NOT_RUN = r"Not (?:timed|profiled):"


@pytest.mark.gpu
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_on_a_gpu(path, tmp_path):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, path], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not re.search(NOT_RUN, done.stdout), done.stdout
