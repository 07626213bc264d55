"""Every tutorial is built alike; that each runs to its end, the build of the site shows."""

import ast
import re
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
