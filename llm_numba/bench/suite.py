"""``llm-numba bench all`` and ``bench multi``: many records, one command, within a time limit.

Each record is a command of its own, in a process of its own, of several ranks under mpirun: one
that fails takes nothing from the others, and GPUs are empty again before the next. What is asked
for most comes first. A command that might not end in time is not begun.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Between the end of a launcher that was asked to end and that of its ranks.
_FAREWELL_S = 10.0


@dataclass(frozen=True)
class Case:
    """A command that writes a record.

    Attributes
    ----------
    ranks : int
        More than one run under mpirun.
    arguments : tuple of str
        Of ``llm-numba``.
    seconds : float
        That it should take at the most; it is ended then.
    """

    ranks: int
    arguments: tuple[str, ...]
    seconds: float

    @property
    def title(self) -> str:
        """How it is called in what is printed: without this machine's directories."""
        words = (Path(each).name if Path(each).is_absolute() else each for each in self.arguments)
        several = f"{self.ranks} ranks: " if self.ranks > 1 else ""
        return f"{several}{' '.join(words)}"

    @property
    def benchmark(self) -> str:
        """What its record is of: "kernels"."""
        command, *rest = self.arguments
        return rest[0] if command == "bench" else command


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


def run(
    wanted: Sequence[Case],
    launcher: str | None,
    limit_s: float,
    environment: Mapping[str, str],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Run one case after another, as long as there is time.

    Parameters
    ----------
    wanted : sequence of Case
    launcher : str or None
        Path of mpirun; without it, what takes several ranks cannot run.
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
        elif case.ranks > 1 and launcher is None:
            problem = "there is no mpirun; pip install 'llm-numba[mpi]' brings one"
        else:
            problem = _run(case, launcher, environment)
        yield Outcome(case, problem, clock() - begin)


def _run(case: Case, launcher: str | None, environment: Mapping[str, str]) -> str:
    program = [sys.executable, "-m", "llm_numba", *case.arguments]
    if case.ranks > 1 and launcher:
        start = [launcher, "-n", str(case.ranks), "--bind-to", "none", "--oversubscribe"]
        program = [*start, *program]
    child = subprocess.Popen(
        program,
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
        _end(child)
        return f"it did not end within {case.seconds:.0f} s"
    except BaseException:  # Ctrl-C
        _end(child)
        raise
    if child.returncode == 0:
        return ""
    said = [line for line in err.splitlines() if any(map(str.isalnum, line))]
    ours = [line for line in said if line.startswith("Error")]
    # A launcher says first what is wrong, a traceback last.
    place = -1 if "Traceback" in err else 0
    told = ours[:1] or [said[place]] if said else [f"exit code {child.returncode}"]
    return told[0].strip()


def _end(child: subprocess.Popen[str]) -> None:
    """End a case; a launcher ends its ranks only if it is asked."""
    child.terminate()
    try:
        child.communicate(timeout=_FAREWELL_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
