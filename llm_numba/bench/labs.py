"""``llm-numba bench labs``: the labs' tier on a GPU, as a record.

The labs' grader runs every solution, and races it on the GPU beside our kernels. Wrong versions
that are right but slow are raced as well. So the record says how far a bound is from what should
pass, and from what should not.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_numba import variables
from llm_numba.bench.environment import checkout
from llm_numba.bench.record import Result, make_record
from llm_numba.bench.timing import summarize
from llm_numba.errors import LLMNumbaError

SOLUTION = "solution"
_STDERR = 2


def record_of(labs: str, *, mpi: bool = False, commit: str | None = None) -> dict[str, Any]:
    """Run the grader, and make the record of what it found.

    Parameters
    ----------
    labs : str
        As the grader takes them: "all", or numbers with commas between.
    mpi : bool
        Whether the labs of several ranks run by mpirun, too.
    commit : str, optional
        What was run, for a copy of the checkout without git.

    Raises
    ------
    LLMNumbaError
        If there is no checkout, or the grader says why it cannot.
    """
    root = checkout()
    if root is None:
        raise LLMNumbaError(
            "The labs are not in the installed package.", "Run this from a clone of the source."
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "races.json"
        grader = [sys.executable, str(root / "tutorials" / "labs" / "grader")]
        options = ["race", labs, "--out", str(out), *(["--mpi"] if mpi else [])]
        # The grader must find this package, installed or not. What it prints is progress.
        inherited = variables.passed_on()
        paths = os.pathsep.join(filter(None, [str(root), inherited.get("PYTHONPATH")]))
        environment = inherited | {"PYTHONPATH": paths}
        done = subprocess.run([*grader, *options], stdout=_STDERR, cwd=root, env=environment)
        if not out.is_file():
            raise LLMNumbaError(
                f"The labs' grader ended with exit code {done.returncode}.",
                "It says why above.",
            )
        found = json.loads(out.read_text(encoding="utf-8"))
    settings = {"labs": labs, "mpi": mpi}
    return make_record("labs", settings, results_of(found["races"]), commit) | {
        "labs": found["labs"],
        "left_out": {
            f"lab{each['lab']:02}/{each['version']}": each["message"]
            for each in found["races"]
            if each.get("bound") is None
        },
    }


def results_of(races: Sequence[dict[str, Any]]) -> list[Result]:
    """Return the ratios of times of all races that were run.

    Parameters
    ----------
    races : sequence of dict
        As the grader wrote them.

    Returns
    -------
    list of Result
        The target of a solution is to stay below the bound, that of what is too slow to exceed it.
    """
    return [_result(each) for each in races if each.get("bound") is not None]


def _result(race: dict[str, Any]) -> Result:
    ratios = [theirs / ours for theirs, ours in race["rounds"]]
    return Result(
        f"lab{race['lab']:02}/{race['version']}",
        f"lab {race['lab']}, step {race['step']}: {race['version'].replace('_', ' ')}",
        summarize(ratios, "x"),
        {name: race[name] for name in ("lab", "step", "version", "against", "bound")}
        | {"microseconds": [round(1e6 * theirs, 3) for theirs, _ in race["rounds"]]},
        at_most=race["bound"] if race["version"] == SOLUTION else None,
        at_least=race["bound"] if race["too_slow"] else None,
    )
