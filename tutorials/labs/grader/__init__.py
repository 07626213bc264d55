"""The grader of the labs: runs a student's file, counts what it costs, and explains.

A ``lab.py`` uses these names; the page "Labs: for instructors" shows how.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grader.costs import Ran
    from grader.lab import Lab, Step
    from grader.student import Student
    from grader.verdict import Failed, close, fail, gamma, same

__all__ = ["Failed", "Lab", "Ran", "Step", "Student", "close", "fail", "gamma", "same"]

_HOMES = {"Lab": "lab", "Step": "lab", "Ran": "costs", "Student": "student"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the children need none of them."""
    if name not in __all__:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"grader.{_HOMES.get(name, 'verdict')}"), name)
