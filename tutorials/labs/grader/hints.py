"""Hints, one level after another."""

import contextlib
import json
import re
from pathlib import Path

from rich.console import Group
from rich.markdown import Markdown
from rich.rule import Rule
from rich.text import Text

from grader.lab import Lab, LabError

LEVELS = 3
# Beside the exercise, and not in git: which hints have been shown.
STATE = ".hints-shown.json"


def read_hints(lab: Lab) -> dict[int, list[str]]:
    """Read a lab's ``hints.md``: step -> hints, the gentlest first.

    Parameters
    ----------
    lab : Lab
    """
    hints: dict[int, list[str]] = {}
    for part in re.split(r"^## ", (lab.folder / "hints.md").read_text(), flags=re.M)[1:]:
        head, *levels = re.split(r"^### Hint \d.*\n", part, flags=re.M)
        number = re.match(r"Step (\d+)", head)
        if number:
            hints[int(number[1])] = [level.strip() for level in levels]
    return hints


def next_hint(lab: Lab, step: int) -> Group:
    """Return the next hint for a step; behind the last, all of them again.

    Parameters
    ----------
    lab : Lab
    step : int

    Raises
    ------
    LabError
        If the lab has no such step.
    """
    hints = read_hints(lab).get(step)
    if hints is None:
        raise LabError(
            f"Lab {lab.number} has no step {step}.", f"It has steps 1 to {len(lab.steps)}."
        )
    shown = _shown(lab.folder / STATE)
    level = shown.get(str(step), 0) + 1
    if level > len(hints):
        return Group(*(each for n, hint in enumerate(hints) for each in _titled(step, n, hint)))
    with contextlib.suppress(OSError):  # in a folder that cannot be written each is the first
        (lab.folder / STATE).write_text(json.dumps(shown | {str(step): level}))
    return Group(*_titled(step, level - 1, hints[level - 1]))


def _titled(step: int, index: int, hint: str) -> tuple[Rule, Markdown, Text]:
    return (
        Rule(f"Step {step}, hint {index + 1} of {LEVELS}", align="left"),
        Markdown(hint),
        Text(),
    )


def _shown(path: Path) -> dict[str, int]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
