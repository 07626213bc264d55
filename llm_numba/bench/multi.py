"""``llm-numba bench multi``: all records of several ranks, one command, within a time limit.

Each record is a command of its own under mpirun, in a process of its own: one that fails takes
nothing from the others, and GPUs are empty again before the next. What is asked for most comes
first. A command that would not end in time is not begun.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# Between the end of a launcher that was asked to end and that of its ranks.
_FAREWELL_S = 10.0


@dataclass(frozen=True)
class Case:
    """A command that writes a record.

    Attributes
    ----------
    ranks : int
    arguments : tuple of str
        Of ``llm-numba``.
    seconds : float
        That it should take at the most.
    """

    ranks: int
    arguments: tuple[str, ...]
    seconds: float

    @property
    def title(self) -> str:
        """How it is called in what is printed."""
        return f"{self.ranks} ranks: {' '.join(self.arguments)}"


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes
    ----------
    case : Case
    problem : str
        Empty if it wrote its record.
    seconds : float
    """

    case: Case
    problem: str
    seconds: float


def cases(num_gpus: int, commit: str | None = None) -> list[Case]:
    """List what there is to measure, the most telling first.

    Parameters
    ----------
    num_gpus : int
        Without any, ranks of the CPU are measured, on the bundled model.
    commit : str, optional
        What is run, for a copy of the checkout without git.

    Returns
    -------
    list of Case
    """
    wanted = _cases(num_gpus)
    if commit:
        wanted = [replace(case, arguments=(*case.arguments, "--commit", commit)) for case in wanted]
    return wanted


def _cases(num_gpus: int) -> list[Case]:
    if num_gpus < 2:
        small = "--device", "cpu", "--model", "storyteller", "--context", "64", "--prompt", "256"
        return [
            Case(2, ("bench", "comm"), 120),
            Case(1, ("bench", "ranks", *small), 120),
            Case(2, ("bench", "ranks", *small, "--tp", "2"), 120),
            Case(2, ("bench", "ranks", *small, "--pp", "2"), 120),
        ]
    counts = [count for count in (2, 4, 8) if count <= num_gpus]
    eight, seventy = ("--model", "random:llama-3-8b"), ("--model", "random:llama-3-70b")
    decode = "--prompt", "0", "--requests", "0"
    load = "--prompt", "0", "--batch", "1", "--steps", "50"
    comm = "bench", "comm", "--gpus", "--samples", "11", "--largest", str(1 << 28)
    found = [Case(count, comm, 90) for count in counts]
    found.append(Case(1, ("bench", "ranks", *eight), 90))
    found += [Case(P, ("bench", "ranks", *eight, "--tp", str(P)), 90) for P in counts]
    found += [
        Case(2, ("bench", "ranks", *eight, *decode, "--tp", "2", "--comm", path, *launches), 60)
        for path in ("mpi", "mpi-staged", "nccl", "peer")
        for launches in ((), ("--enforce-eager",))
    ]
    found += [Case(P, ("bench", "ranks", *seventy, *decode, "--tp", str(P)), 150) for P in counts]
    found += [Case(R, ("bench", "ranks", *seventy, *load, "--pp", str(R)), 200) for R in counts]
    if num_gpus >= 4:
        both = "--tp", "2", "--pp", "2"
        found.append(Case(4, ("bench", "ranks", *seventy, *load, *both), 200))
    return found


def run(
    wanted: Sequence[Case],
    launcher: str,
    limit_s: float,
    environment: Mapping[str, str],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Run one case after another, as long as there is time.

    Parameters
    ----------
    wanted : sequence of Case
    launcher : str
        Path of mpirun.
    limit_s : float
        Seconds for all.
    environment : mapping of str to str
    clock : callable() -> float, optional

    Yields
    ------
    Outcome
        As soon as it is known.
    """
    end = clock() + limit_s
    for case in wanted:
        begin = clock()
        if begin + case.seconds > end:
            left = max(0.0, end - begin)
            problem = f"it may take {case.seconds:.0f} s, and {left:.0f} s are left"
        else:
            problem = _run(case, launcher, environment)
        yield Outcome(case, problem, clock() - begin)


def _run(case: Case, launcher: str, environment: Mapping[str, str]) -> str:
    program = [sys.executable, "-m", "llm_numba", *case.arguments]
    start = [launcher, "-n", str(case.ranks), "--bind-to", "none", "--oversubscribe"]
    child = subprocess.Popen(
        program if case.ranks == 1 else [*start, *program],
        env=dict(environment),
        cwd=Path.cwd(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        _, err = child.communicate(timeout=case.seconds)
    except subprocess.TimeoutExpired:
        # A launcher ends its ranks only if it is asked.
        child.terminate()
        try:
            child.communicate(timeout=_FAREWELL_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
        return f"it did not end within {case.seconds:.0f} s"
    if child.returncode == 0:
        return ""
    said = [line for line in err.splitlines() if any(map(str.isalnum, line))]
    told = [line for line in said if line.startswith("Error")] or said[-1:]
    return told[0] if told else f"exit code {child.returncode}"
