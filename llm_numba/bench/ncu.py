"""Nsight Compute: what the hardware itself counted while a program ran.

``ncu`` runs a program, runs each of its kernels again for every few metrics, and prints a table:
with ``--csv --page raw`` one row a launch and one column a metric. A line of units follows the
header, numbers may have commas, and lines of the profiler and the program may stand between.
"""

import csv
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_numba import variables
from llm_numba.errors import DependencyError, LLMNumbaError

_PLACES = ("/usr/local/cuda/bin/ncu", "/opt/nvidia/nsight-compute")


@dataclass(frozen=True)
class ProfiledLaunch:
    """A launch as Nsight Compute shows it.

    Attributes
    ----------
    kernel : str
        Its name, mangled or not.
    grid, block : tuple of int or None
    metrics : dict
        Figures by name; None where ncu has none.
    """

    kernel: str
    grid: tuple[int, ...] | None
    block: tuple[int, ...] | None
    metrics: dict[str, float | None]

    def is_of(self, function: str) -> bool:
        """Tell whether this is a launch of a kernel that a Python function of this name makes.

        Numba mangles names as C++ does, each part behind its length; ncu may undo that.
        """
        return (
            f"{len(function)}{function}" in self.kernel
            or re.search(rf"\b{re.escape(function)}\b", self.kernel) is not None
        )


def find_ncu() -> str:
    """Return the path of Nsight Compute's command line.

    Raises
    ------
    DependencyError
        If it is not there.
    """
    found = shutil.which("ncu")
    for place in map(Path, _PLACES):
        found = found or next((str(path) for path in [place, *place.glob("*/ncu")]
                               if path.is_file()), None)  # fmt: skip
    if found is None:
        raise DependencyError(
            "Nsight Compute (ncu) is not installed.",
            "It comes with the CUDA toolkit; or name it with --ncu.",
        )
    return found


def known_metrics(ncu: str, metrics: Iterable[str]) -> list[str]:
    """Return those of some metrics that this ncu has for this GPU.

    ncu gives up on all if it does not know one.

    Parameters
    ----------
    ncu : str
        Its path.
    metrics : iterable of str
        With suffix: "smsp__inst_executed.sum".

    Raises
    ------
    LLMNumbaError
        If ncu cannot say what it has.
    """
    done = _run([ncu, "--query-metrics", "--csv"])
    # Where those are listed that ncu counts instruction by instruction depends on its version.
    more = _run([ncu, "--query-metrics", "--query-metrics-collection", "source", "--csv"])
    words = set(re.findall(r"\w+__\w+", done.stdout + more.stdout))
    if not words:
        raise LLMNumbaError(
            f"ncu names no metrics: {(done.stderr or done.stdout).strip()}",
            "Run `ncu --query-metrics`, which must work first.",
        )
    return [metric for metric in metrics if metric.partition(".")[0] in words]


def profile(
    ncu: str, program: Sequence[str], metrics: Sequence[str], log: Path, kernels: str = ""
) -> str:
    """Run a program under Nsight Compute.

    Parameters
    ----------
    ncu : str
        Its path.
    program : sequence of str
    metrics : sequence of str
    log : Path
        Where ncu writes; what the program prints does not get in between.
    kernels : str
        A regular expression that names of kernels match, to profile no others.

    Returns
    -------
    str
        The log, for :func:`parse`.

    Raises
    ------
    LLMNumbaError
        If ncu or the program fails.
    """
    options = [
        "--csv", "--page", "raw", "--print-units", "base", "--kernel-name-base", "function",
        "--clock-control", "none", "--log-file", str(log), "--metrics", ",".join(metrics),
    ]  # fmt: skip
    if kernels:
        options += ["--kernel-name", f"regex:{kernels}"]
    done = _run([ncu, *options, *program])
    text = log.read_text() if log.is_file() else ""
    if done.returncode:
        said = "\n".join(filter(None, map(str.strip, (done.stderr, done.stdout, text[-2000:]))))
        raise LLMNumbaError(
            f"ncu ends with code {done.returncode}: {said}",
            "On ERR_NVGPUCTRPERM, ask the administrator for access to the GPU's counters.",
        )
    return text


def profile_known(
    ncu: str | None, program: Sequence[str], metrics: Iterable[str], log: Path, kernels: str = ""
) -> list[str]:
    """Run a program under Nsight Compute, with those of some metrics that it has.

    Parameters
    ----------
    ncu : str or None
        Its path; None looks for it.
    program, log, kernels
        As of :func:`profile`.
    metrics : iterable of str
        As of :func:`known_metrics`.

    Returns
    -------
    list of str
        The metrics.

    Raises
    ------
    DependencyError
        If ncu is not there.
    LLMNumbaError
        If ncu or the program fails.
    """
    ncu = ncu or find_ncu()
    known = known_metrics(ncu, metrics)
    profile(ncu, program, known, log, kernels)
    return known


def parse(text: str) -> list[ProfiledLaunch]:
    """Read the table of ``ncu --csv --page raw``.

    Parameters
    ----------
    text : str
        What ncu printed, other lines included.

    Returns
    -------
    list of ProfiledLaunch
        In the order of the launches.

    Raises
    ------
    LLMNumbaError
        If there is no table.
    """
    rows = list(csv.reader(line for line in text.splitlines() if line.startswith('"')))
    start = next((i for i, row in enumerate(rows) if "Kernel Name" in row), None)
    if start is None:
        raise LLMNumbaError(
            f"ncu printed no table: {text.strip()[-2000:] or 'nothing'}",
            "Look at its messages; no kernel was profiled.",
        )
    header = rows[start]
    launches = []
    for row in rows[start + 1 :]:
        entry = dict(zip(header, row, strict=False))
        if not entry.get("ID", "").isdigit():  # the line of units
            continue
        launches.append(
            ProfiledLaunch(
                entry["Kernel Name"],
                _extents(entry.get("Grid Size", "")),
                _extents(entry.get("Block Size", "")),
                {name: _number(value) for name, value in entry.items() if "__" in name},
            )
        )
    return launches


def pair(
    expected: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    profiled: Sequence[ProfiledLaunch],
) -> list[ProfiledLaunch]:
    """Find the profiled launch of each expected one, by order and name.

    Parameters
    ----------
    expected : sequence of (function, grid, block)
        In the order in which they were launched.
    profiled : sequence of ProfiledLaunch
        There may be others between.

    Raises
    ------
    LLMNumbaError
        If one is missing, or has another grid or block.
    """
    found, rest = [], iter(profiled)
    for number, (function, grid, block) in enumerate(expected):
        launch = next((launch for launch in rest if launch.is_of(function)), None)
        if launch is None:
            names = ", ".join(launch.kernel for launch in profiled)
            raise LLMNumbaError(
                f"ncu shows no launch number {number}, of {function}; it shows: {names}.",
                "Keep its log with --keep, and see what it calls the kernel.",
            )
        for what, mine, theirs in (("grid", grid, launch.grid), ("block", block, launch.block)):
            if theirs is not None and _full(mine) != _full(theirs):
                raise LLMNumbaError(
                    f"Launch number {number}, of {function}, has {what} {_full(mine)}, and ncu "
                    f"shows one with {theirs}.",
                    "Keep its log with --keep, and see which launches are missing.",
                )
        found.append(launch)
    return found


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # Numbers as in English, whatever the system's language.
    return subprocess.run(
        command, capture_output=True, text=True, env=variables.passed_on() | {"LC_ALL": "C"}
    )


def _extents(text: str) -> tuple[int, ...] | None:
    numbers = re.findall(r"\d+", text)
    return tuple(map(int, numbers)) or None


def _full(extents: tuple[int, ...]) -> tuple[int, ...]:
    return (*extents, *(1,) * (3 - len(extents)))


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:  # "n/a", or nothing
        return None
