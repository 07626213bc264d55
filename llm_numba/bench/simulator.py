"""``llm-numba bench simulator``: our simulator of kernels against Numba's own.

Both run the same kernels on the same inputs, each in fresh processes, and must agree. The *first*
call of a process pays, in ours, for typing and translating the kernel; Numba's has nothing to
prepare. Calls after it are what a test suite or a student's next attempt waits for, and what the
targets are for: 20 times Numba's simulator, and 8 times while costs are counted and races looked
for, on every kernel that Numba's can run.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from llm_numba import variables
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.errors import LLMNumbaError

PLAIN_TARGET = 20.0
EXPLAINED_TARGET = 8.0


@dataclass(frozen=True)
class SimulatorSettings:
    """How often to run.

    Attributes
    ----------
    rounds : int
        Fresh processes of each kernel and simulator; a ratio is taken within a round.
    repeats, numba_repeats : int
        Calls after the first in a process, of ours and of Numba's, which takes seconds.
    only : tuple of str
        Names of the cases to run; empty for all.
    """

    rounds: int = 5
    repeats: int = 9
    numba_repeats: int = 3
    only: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)


@dataclass
class _Samples:
    """Of one kernel, a figure a round, in seconds."""

    numba_first: list[float]
    numba_again: list[float]
    ours_first: list[float]
    ours_again: list[float]
    ours_explained: list[float]


def measure(settings: SimulatorSettings) -> Iterator[Result]:
    """Run the benchmark.

    Parameters
    ----------
    settings : SimulatorSettings

    Yields
    ------
    Result
        Kernel by kernel, and at the end the smallest ratios.

    Raises
    ------
    LLMNumbaError
        If the two simulators do not agree, or one of them fails.
    """
    from llm_numba.bench.simulator_kernels import CASES

    unknown = set(settings.only) - {case.name for case in CASES}
    if unknown:
        raise LLMNumbaError(
            f"There is no kernel {', '.join(sorted(unknown))} in this benchmark.",
            f"Choose from: {', '.join(case.name for case in CASES)}.",
        )
    plain, explained = [], []
    for case in CASES:
        if settings.only and case.name not in settings.only:
            continue
        samples = _rounds(case, settings)
        shape = {"threads": case.threads}
        yield from _times(case, samples, shape)
        plain.append(_ratios(samples.numba_again, samples.ours_again))
        explained.append(_ratios(samples.numba_again, samples.ours_explained))
        yield from _speedups(case.name, case.what, plain[-1], explained[-1], shape)
        yield Result(
            f"first_call_speedup/{case.name}",
            f"{case.what}: first call of a process",
            summarize(_ratios(samples.numba_first, samples.ours_first), "x"),
            shape,
        )
    smallest = [list(map(min, zip(*ratios, strict=True))) for ratios in (plain, explained)]
    yield from _speedups("minimum", "the smallest of all kernels", *smallest, {})


def _rounds(case: Any, settings: SimulatorSettings) -> _Samples:
    samples = _Samples([], [], [], [], [])
    for _ in range(settings.rounds):
        theirs, numba = _child("numba", case.name, settings.numba_repeats)
        mine, ours = _child("ours", case.name, settings.repeats)
        _compare(case, mine, theirs)
        samples.numba_first.append(numba["first"])
        samples.numba_again.append(float(np.median(numba["again"])))
        samples.ours_first.append(ours["first"])
        samples.ours_again.append(float(np.median(ours["again"])))
        samples.ours_explained.append(float(np.median(ours["explained"])))
    return samples


def _child(simulator: str, name: str, repeats: int) -> tuple[np.ndarray, dict[str, Any]]:
    chosen = {"NUMBA_ENABLE_CUDASIM": "1" if simulator == "numba" else "0"}
    environment = variables.passed_on() | chosen
    with TemporaryDirectory() as folder:
        path = Path(folder, "result.npy")
        command = [sys.executable, "-m", "llm_numba.bench.simulator_process", simulator, name]
        done = subprocess.run(
            [*command, str(repeats), str(path)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            whose = "our" if simulator == "ours" else "Numba's"
            raise LLMNumbaError(
                f"{name} fails in {whose} simulator:\n{done.stderr.strip()}\n",
                f"Run it alone: {shlex.join(command)} 1 result.npy",
            )
        return np.load(path), json.loads(done.stdout.splitlines()[-1])


def _compare(case: Any, mine: np.ndarray, theirs: np.ndarray) -> None:
    far = float(np.abs(mine.astype(np.float64) - theirs).max())
    allowed = case.tolerance * float(np.abs(theirs).max())
    if not far <= allowed:  # NaN is no agreement
        raise LLMNumbaError(
            f"The two simulators disagree on {case.name}: by {far:g}, where {allowed:g} is "
            "rounding.",
            "One of them is wrong; no speed of it is worth recording.",
        )


def _ratios(slow: list[float], fast: list[float]) -> list[float]:
    return [theirs / ours for theirs, ours in zip(slow, fast, strict=True)]


def _times(case: Any, samples: _Samples, shape: dict[str, Any]) -> Iterator[Result]:
    for kind, what in (
        ("numba_first", "Numba's simulator, first call"),
        ("numba_again", "Numba's simulator"),
        ("ours_first", "ours, first call"),
        ("ours_again", "ours"),
        ("ours_explained", "ours, explaining"),
    ):
        milliseconds = [1e3 * seconds for seconds in getattr(samples, kind)]
        warmup = 0 if kind.endswith("first") else 1
        yield Result(
            f"{kind}/{case.name}",
            f"{case.what}: {what}",
            summarize(milliseconds, "ms", warmup=warmup),
            shape,
        )


def _speedups(
    name: str, what: str, plain: list[float], explained: list[float], shape: dict[str, Any]
) -> Iterator[Result]:
    yield Result(
        f"speedup/{name}",
        f"{what}: times Numba's simulator",
        summarize(plain, "x", warmup=1),
        shape,
        at_least=PLAIN_TARGET,
    )
    yield Result(
        f"speedup_explained/{name}",
        f"{what}: the same, explaining",
        summarize(explained, "x", warmup=1),
        shape,
        at_least=EXPLAINED_TARGET,
    )
