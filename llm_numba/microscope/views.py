"""Running a ladder's steps, or somebody's kernel, in the simulator and keeping what it saw."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks
from llm_numba.kernels.ladder import Ladder, Step
from llm_numba.microscope.ladders import find_ladder
from llm_numba.runtime import Launch, intercept, kernel_view, launch_all
from llm_numba.simulator import LineReport, Report, simulate

# Of the largest value: what float32 arithmetic between a kernel's loads and stores may cost.
_ARITHMETIC = 64 * float(np.finfo(np.float32).eps)
_SUMMED = (
    "global_requests", "global_sectors", "ideal_sectors",
    "shared_requests", "shared_wavefronts", "ideal_wavefronts", "divergent",
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How near a step's outputs came to the reference in float64.

    Attributes
    ----------
    error : float
        The largest difference, as a fraction of the output's largest value.
    allowed : float
        What rounding explains: the storage format's, and that of float32 in between. 0 for
        integers.
    """

    error: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the outputs are right."""
        return self.error <= self.allowed


@dataclass(frozen=True)
class View:
    """One step, or one kernel, as the simulator saw it.

    Attributes
    ----------
    name, idea : str
        Of the step.
    launches : tuple of Launch
        What ran; empty where the shape leaves nothing to do.
    reports : tuple of Report
        One a launch.
    agreement : Agreement or None
        None where there is no reference to compare with.
    """

    name: str
    idea: str
    launches: tuple[Launch, ...]
    reports: tuple[Report, ...]
    agreement: Agreement | None = None

    @property
    def total(self) -> LineReport:
        """The costs of all lines of all launches, added up; ``max_bank_ways`` is the worst."""
        lines = [line for report in self.reports for line in report.lines]
        sums = {name: sum(getattr(line, name) for line in lines) for name in _SUMMED}
        return LineReport(
            "", 0, **sums, max_bank_ways=max((line.max_bank_ways for line in lines), default=0)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the view as a JSON object; ``error`` is null where values were not finite."""
        return {
            "name": self.name,
            "idea": self.idea,
            "agreement": self.agreement
            and {
                "holds": self.agreement.holds,
                "error": self.agreement.error if math.isfinite(self.agreement.error) else None,
                "allowed": self.agreement.allowed,
            },
            "total": {name: getattr(self.total, name) for name in (*_SUMMED, "max_bank_ways")},
            "launches": [asdict(report) for report in self.reports],
        }


@dataclass(frozen=True)
class Examination:
    """The steps of a ladder side by side, or one kernel of somebody's file.

    Attributes
    ----------
    name : str
        The ladder's, or the file's and the kernel's.
    views : tuple of View
    axes : str
        Names of the shape's axes, "M N"; empty without a ladder, as are the following.
    shape : tuple of int
    dtype : str
    fewest_bytes : int
        That must cross global memory, whatever the kernel.
    """

    name: str
    views: tuple[View, ...]
    axes: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    fewest_bytes: int = 0

    @property
    def title(self) -> str:
        """Name, dtype and shape: "transpose, float32, M=64, N=64"."""
        lengths = zip(self.axes.split(), self.shape, strict=True)
        return ", ".join(
            [self.name, *[self.dtype] * bool(self.dtype), *(f"{a}={n}" for a, n in lengths)]
        )

    @property
    def holds(self) -> bool:
        """Whether all results agree with the reference, as far as there is one."""
        return all(view.agreement is None or view.agreement.holds for view in self.views)

    def to_json(self) -> dict[str, Any]:
        """Return all that was seen, each line of each launch, as a JSON object."""
        return {
            "name": self.name,
            "axes": self.axes,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "fewest_bytes": self.fewest_bytes,
            "steps": [view.to_json() for view in self.views],
        }


def examine(
    ladder: Ladder | str,
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    steps: Sequence[str] | None = None,
    *,
    schedule: str = "ordered",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Examination:
    """Run steps of a ladder in the simulator, and compare their results with the reference.

    Parameters
    ----------
    ladder : Ladder or str
        Or its name, ``"transpose"``.
    shape : sequence of int, optional
        In the order of the ladder's axes; by default its example.
    dtype : str, optional
        Storage format, of the ladder's; by default the first of them.
    steps : sequence of str, optional
        By default all; shown in the ladder's order.
    schedule : {"ordered", "random"}
        ``"random"`` lets any thread go first, between any two memory accesses.
    seed : int
        Of the random schedule.
    progress : callable, optional
        Told the name of each step before it runs.

    Returns
    -------
    Examination

    Raises
    ------
    LLMNumbaError
        If there is no such ladder, step or dtype, or the shape has another number of axes.
    SimulationError
        If the simulator finds a fault.
    """
    ladder = find_ladder(ladder) if isinstance(ladder, str) else ladder
    shape = _checked_shape(ladder, ladder.example if shape is None else shape)
    dtype = ladder.dtypes[0] if dtype is None else dtype
    checks.choice("dtype", dtype, ladder.dtypes)
    for name in steps or ():
        checks.choice("step", name, [each.name for each in ladder.steps])
    views = []
    for step in ladder.steps:
        if not steps or step.name in steps:
            if progress:
                progress(step.name)
            views.append(_view(ladder, step, shape, np.dtype(dtype), schedule, seed))
    fewest = ladder.fewest_bytes(shape, np.dtype(dtype).itemsize)
    return Examination(ladder.name, tuple(views), ladder.axes, shape, dtype, fewest)


def observe(launch: Launch, schedule: str = "ordered", seed: int = 0) -> Report:
    """Run one launch in the simulator, and count what its lines cost.

    Parameters
    ----------
    launch : Launch
        Its arrays are NumPy's or the simulated device's, and are written in place.
    schedule, seed
        As of :func:`examine`.
    """
    args = tuple(
        np.asarray(kernel_view(value)) if isinstance(value, np.ndarray) else value
        for value in launch.args
    )
    return simulate(
        launch.kernel, launch.grid, launch.block, args, launch.shared_bytes,
        schedule=schedule, seed=seed,
    )  # fmt: skip


def compare(got: np.ndarray, want: np.ndarray) -> Agreement:
    """Say how near an output came to the reference.

    Parameters
    ----------
    got : ndarray
        As the kernel stored it.
    want : ndarray of the same shape
        float64, or integers.
    """
    exact = got.dtype.kind in "iub"
    allowed = 0.0 if exact else float(ml_dtypes.finfo(got.dtype).eps) + _ARITHMETIC
    got, want = got.astype(np.float64), want.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    if same.all():
        return Agreement(0.0, allowed)
    finite = np.isfinite(got) & np.isfinite(want)
    if not (same | finite).all():
        return Agreement(math.inf, allowed)
    scale = np.abs(want[finite]).max()
    difference = np.abs(got[finite] - want[finite]).max()
    return Agreement(float(difference / scale) if scale else math.inf, allowed)


def _view(
    ladder: Ladder, step: Step, shape: tuple[int, ...], dtype: np.dtype, schedule: str, seed: int
) -> View:
    operands = ladder.operands(shape, dtype, 0)
    placed = {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in operands.items()
    }
    launches, reports = [], []

    def run(launch: Launch) -> None:
        launches.append(launch)
        reports.append(observe(launch, schedule, seed))

    with intercept(run):
        launch_all(step.plan(**placed))
    agreements = [compare(placed[name], want) for name, want in ladder.expect(**operands).items()]
    worst = max(agreements, key=lambda each: each.error - each.allowed)
    return View(step.name, step.idea, tuple(launches), tuple(reports), worst)


def _checked_shape(ladder: Ladder, shape: Sequence[int]) -> tuple[int, ...]:
    count = len(ladder.axes.split())
    if len(shape) != count or any(int(length) != length or length < 0 for length in shape):
        raise KernelArgumentError(
            f"The shape {','.join(map(str, shape))} is none of {ladder.name}.",
            f"Give {count} sizes, for {ladder.axes}: {','.join(map(str, ladder.example))}.",
        )
    return tuple(map(int, shape))
