"""A lab: its steps, and what each is worth."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_numba.errors import LLMNumbaError

LABS = Path(__file__).parents[1]
_FOLDER = re.compile(r"lab(\d\d)_(\w+)$")


class LabError(LLMNumbaError):
    """There is no such lab, submission or key."""


@dataclass(frozen=True)
class Check:
    """One thing that a step must do.

    Attributes
    ----------
    title : str
        Ends the sentence "The step ...".
    points : int
    run : callable(student, rng)
        Raises ``Failed`` if the student's program does not do it.
    gpu : bool
        Whether it needs a GPU.
    at_most : float or None
        What it asks of the student's time, in units of ours.
    """

    title: str
    points: int
    run: Callable[..., None]
    gpu: bool = False
    at_most: float | None = None


@dataclass
class Step:
    """A part of a lab that a student writes and gets points for.

    Attributes
    ----------
    number : int
        From 1.
    title : str
    checks : list of Check
        In order; those behind one that fails are not tried.
    """

    number: int
    title: str
    checks: list[Check] = field(default_factory=list)

    @property
    def points(self) -> int:
        """What all checks are worth that need no GPU."""
        return sum(check.points for check in self.checks if not check.gpu)

    def check(
        self, title: str, points: int = 1, *, gpu: bool = False, at_most: float | None = None
    ) -> Callable[..., Any]:
        """Make a function the next check of this step.

        Parameters
        ----------
        title : str
            Ends the sentence "The step ...": "adds vectors of any length".
        points : int
        gpu : bool
            Whether it needs a GPU.
        at_most : float, optional
            Of a race: what it asks of the student's time, in units of ours.
        """

        def add(run: Callable[..., None]) -> Callable[..., None]:
            self.checks.append(Check(title, points, run, gpu, at_most))
            return run

        return add


@dataclass
class Lab:
    """What a ``lab.py`` declares.

    Attributes
    ----------
    title : str
    goal : str
        One sentence for the table of labs.
    needs : str
        What a student needs for it.
    imports : tuple of str
        Modules of the standard library that the exercise may import beside the usual ones.
    seconds : int
        Of processor time, for each launch of a check, and for all of its Python.
    slow : bool
        Whether all checks together take more than some seconds.
    ranks : bool
        Whether it runs as several ranks, which mpirun can start as well.
    steps : list of Step
    folder : Path
        Set by :func:`load_lab`.
    """

    title: str
    goal: str
    needs: str = "a laptop"
    imports: tuple[str, ...] = ()
    seconds: int = 20
    slow: bool = False
    ranks: bool = False
    steps: list[Step] = field(default_factory=list)
    folder: Path = LABS

    def step(self, title: str) -> Step:
        """Add the next step.

        Parameters
        ----------
        title : str
        """
        self.steps.append(Step(len(self.steps) + 1, title))
        return self.steps[-1]

    @property
    def number(self) -> int:
        """The number in the name of the lab's folder."""
        found = _FOLDER.match(self.folder.name)
        return int(found[1]) if found else 0

    @property
    def points(self) -> int:
        """What all steps are worth."""
        return sum(step.points for step in self.steps)

    @property
    def exercise(self) -> Path:
        """The file that a student writes into."""
        return self.folder / "exercise.py"


def lab_folders() -> list[Path]:
    """Return the folders of all labs, by number."""
    return sorted(path for path in LABS.iterdir() if _FOLDER.match(path.name))


def load_lab(folder: Path) -> Lab:
    """Read a lab's declaration.

    Parameters
    ----------
    folder : Path
        That holds ``lab.py``.
    """
    spec = importlib.util.spec_from_file_location(f"lab_of_{folder.name}", folder / "lab.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.lab.folder = folder
    return module.lab


def find_labs(wanted: str) -> Iterator[Lab]:
    """Find labs as a command names them.

    Parameters
    ----------
    wanted : str
        ``"3"``, ``"1,2"``, or ``"all"``.

    Raises
    ------
    LabError
        If there is no such lab.
    """
    folders = {int(_FOLDER.match(path.name)[1]): path for path in lab_folders()}  # type: ignore[index]
    for word in folders if wanted == "all" else wanted.split(","):
        try:
            folder = folders[int(word)]
        except (ValueError, KeyError):
            raise LabError(
                f"There is no lab {str(word).strip()!r}.",
                f"There are {', '.join(map(str, folders))}, and all.",
            ) from None
        yield load_lab(folder)
