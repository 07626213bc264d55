"""The tier on a GPU: visibly skipped without one; its bookkeeping in the simulator; and on one."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from grader import close
from grader.channel import MAX_BYTES, encode
from grader.children import Children
from grader.costs import Raced
from grader.gpu import GPU
from grader.lab import Lab, find_labs, lab_folders, load_lab
from grader.races import race, raced_versions, races_of
from grader.run import run_lab
from grader.terminal import show_grades, show_lab, show_race
from grader.verdict import Failed
from rich.console import Console
from submissions import FIRST, solution

from llm_numba.runtime import gpu_problem

RESULTS = Path(__file__).parents[2] / "docs" / "results"
OURS = "llm_numba.kernels.basics:saxpy"


def lab_with_a_race(limit: float) -> Lab:
    lab = Lab(title="A race", goal="None.", folder=FIRST)
    step = lab.step("One")

    @step.check("is right", points=2)
    def _(student, rng):
        x, y = rng.normal(size=(2, 500)).astype(np.float32)
        out = np.full(500, np.nan, np.float32)
        student.run("launch_saxpy", np.float32(2), x, y, out)

    @step.check("is fast", points=3, gpu=True)
    def _(student, rng):
        x, y = rng.normal(size=(2, 1 << 20)).astype(np.float32)
        out = np.full(1 << 20, np.nan, np.float32)
        raced = student.race(
            "launch_saxpy", np.float32(2), x, y, out, against=OURS, against_args=(2.0, x, y),
            out=None,
        )  # fmt: skip
        exact = 2 * x.astype(np.float64) + y
        close(out, exact, 2.0**-22 * (2 * np.abs(x) + np.abs(y)), "out")
        raced.at_most(limit, "One thread an element reaches the memory's bandwidth.")

    return lab


def test_a_check_on_a_gpu_is_skipped_and_says_so(children, tmp_path):
    (tmp_path / "exercise.py").write_text(solution())
    result = run_lab(lab_with_a_race(2), tmp_path / "exercise.py", children)
    check = result.steps[0].checks[1]
    assert (check.state, check.message) == ("skipped", "needs a GPU: make lab LAB=1 GPU=1")
    assert (result.points, result.possible, result.passed) == (2, 2, True)


@pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU")
def test_where_there_is_no_gpu_the_reason_is_shown(children, tmp_path):
    (tmp_path / "exercise.py").write_text(solution())
    result = run_lab(lab_with_a_race(2), tmp_path / "exercise.py", children, gpu=True)
    check = result.steps[0].checks[1]
    assert check.state == "skipped"
    assert check.message == f"no GPU here: {gpu_problem()}"


def test_a_race_runs_what_was_launched_and_times_both_in_turns():
    """On the simulated device, with a clock that says how often it was asked."""
    asked = []

    def seconds_of(work) -> float:
        work()
        asked.append(work.__name__)
        return float(len(asked))

    device = GPU("sim", seconds_of)
    assert device.load(solution()) == {}
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {0: x, 1: y, 2: np.zeros(3, np.float32)}
    on_device = [type("Named", (), {"device_number": number})() for number in arrays]
    args = (np.float32(2), *on_device)
    launch = {"kernel": "saxpy", "grid": (1,), "block": (32,), "args": args, "shared_bytes": 0}
    answer = device.race([launch], arrays, OURS, (2.0, *on_device[:2]), {"step": "thread"})
    assert answer["arrays"][2].tolist() == [3, 6, 9]
    assert answer["seconds"] == [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)]
    assert asked == ["theirs", "ours"] * 3


def test_a_ratio_is_the_median_of_the_rounds_and_must_not_exceed_its_bound():
    raced = Raced(((2.0, 1.0), (90.0, 1.0), (3.0, 2.0)), OURS)
    assert raced.ratio == 2.0
    raced.at_most(2.0, "It can.")
    with pytest.raises(Failed, match=r"2\.00 times as long as .*saxpy.* at most 1\.5 times"):
        raced.at_most(1.5, "It can.")


@pytest.mark.gpu
def test_on_a_gpu_a_right_solution_passes_and_a_slow_one_does_not(children, tmp_path):
    """Ours and this one move the same bytes: twice the time leaves room for noise."""
    (tmp_path / "exercise.py").write_text(solution())
    result = run_lab(lab_with_a_race(2), tmp_path / "exercise.py", children, gpu=True)
    assert [check.state for check in result.steps[0].checks] == ["passed", "passed"]
    (tmp_path / "slow.py").write_text(
        solution(
            saxpy="""    i = cuda.grid(1)
    total = y[i % out.size] * 0
    for _ in range(2000):
        total = total * alpha + 1
    if i < out.size:
        out[i] = alpha * x[i] + y[i] + total * 0"""
        )
    )
    slow = run_lab(lab_with_a_race(2), tmp_path / "slow.py", children, gpu=True)
    assert slow.steps[0].checks[1].state == "failed"


# -- The races of the labs themselves, in the simulator -----------------------------------------

# By lab: what its `LARGE` is here, so that the simulator needs a second and no minute.
SMALL = {
    3: 64,
    4: (32, 32, 32),
    5: (4, 256),
    6: (2, 300),
    7: (40, 40, 2, 1, 32),
    8: ([20] * 2, 8),
}
RACED = [lab.number for lab in map(load_lab, lab_folders()) if races_of(lab)]


class Clock:
    """Seconds that kernels take, by whose they are."""

    def __init__(self, theirs: float) -> None:
        self.theirs = theirs

    def __call__(self, work) -> float:
        work()
        return self.theirs if work.__name__ == "theirs" else 1.0


class Simulated(Children):
    """Children whose GPU is the simulator, with a clock of the test's."""

    def __init__(self, clock) -> None:
        super().__init__()
        self._gpu = GPU("sim", clock)

    def ask_device(self, source, seconds, order, kind="device"):
        if kind != "gpu":
            return super().ask_device(source, seconds, order, kind)
        order = dict(order)
        return self._gpu.load(source) or getattr(self._gpu, order.pop("op"))(**order)


def small(number: int) -> Lab:
    """A lab with small arrays in its races."""
    (lab,) = find_labs(str(number))
    for _, check in races_of(lab):
        names, size = check.run.__globals__, SMALL[number]
        names["LARGE"] = names["LARGE"]._make(size) if number == 7 else size
    return lab


@pytest.mark.parametrize("number", RACED)
def test_all_that_is_raced_is_right_and_the_clock_alone_decides(number):
    lab = small(number)
    versions = list(raced_versions(lab))
    assert versions, "without another version nobody knows what the bound is worth"
    ((_, check),) = races_of(lab)
    with Simulated(Clock(check.at_most)) as children:
        raced = list(race(lab, children))
    assert [each["version"] for each in raced] == ["solution", *versions]
    for each in raced:
        assert each["bound"] == check.at_most, each
        assert (each["state"], each["message"]) == ("passed", "")


class Weighing(Children):
    """Children that note how much is sent to the GPU, and go no further."""

    sent = 0

    def ask_device(self, source, seconds, order, kind="device"):
        assert kind == "gpu"
        self.sent = sum(map(len, encode(order)))
        return {"late": True}


@pytest.mark.parametrize("number", RACED)
def test_what_is_raced_fits_into_a_message(number):
    (lab,) = find_labs(str(number))
    with Weighing() as children:
        next(race(lab, children))
    assert 0 < children.sent < MAX_BYTES


def test_what_takes_too_long_is_named_with_its_ratio():
    with Simulated(Clock(9.0)) as children:
        first = next(race(small(3), children))
    assert first["state"] == "failed"
    assert "This takes 9.00 times as long as" in first["message"]


def test_a_slow_version_says_which_step_is_raced():
    for number in RACED:
        (lab,) = find_labs(str(number))
        steps = {step.number for step, _ in races_of(lab)}
        assert {step for _, step, _ in raced_versions(lab).values()} <= steps


RECORDS = sorted(RESULTS.glob("labs_*.json"))
SLOW = [
    (lab.number, name)
    for lab in map(load_lab, lab_folders())
    for name, (_, _, slow) in raced_versions(lab).items()
    if slow
]


def ratios_and_bound(path: Path, number: int) -> tuple[dict[str, float], float]:
    """What a record measured, by name, and a lab's bound of today."""
    ratios = {each["name"]: each["median"] for each in json.loads(path.read_text())["results"]}
    (lab,) = find_labs(str(number))
    ((_, check),) = races_of(lab)
    return ratios, check.at_most


@pytest.mark.parametrize("number", RACED)
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_solution_keeps_its_bound_with_room_to_spare(path, number):
    """A tenth at least; rounds of one run differ by less than three hundredths."""
    ratios, bound = ratios_and_bound(path, number)
    assert 1.1 * ratios[f"lab{number:02}/solution"] < bound


@pytest.mark.parametrize(("number", "name"), SLOW)
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_what_is_too_slow_misses_the_bound_by_as_much(path, number, name):
    ratios, bound = ratios_and_bound(path, number)
    if f"lab{number:02}/{name}" not in ratios:
        pytest.skip("planted after this record was made: llm-numba bench labs makes it anew")
    assert ratios[f"lab{number:02}/{name}"] > 1.1 * bound


@pytest.mark.parametrize("number", RACED)
def test_each_lab_that_is_raced_has_something_that_is_too_slow(number):
    assert number in {each for each, _ in SLOW}


def test_the_ratio_is_shown_and_what_has_none_says_why():
    console = Console(width=80, file=io.StringIO())
    entry = {"lab": 3, "version": "solution", "rounds": [(2e-6, 1e-6)], "bound": 1.3}
    show_race(console, entry)
    show_race(console, {"lab": 3, "version": "odd", "message": "y is wrong."})
    assert console.file.getvalue().splitlines() == [
        "lab 3, solution: 2.000 times ours (2.0 µs), bound 1.3",
        "lab 3, odd: y is wrong.",
    ]


# -- What was not run ---------------------------------------------------------------------------


def test_a_lab_of_ranks_says_what_else_could_run(children):
    (lab,) = find_labs("11")
    result = run_lab(lab, lab.exercise, children, gpu=True)
    assert [each.partition(":")[0] for each in result.not_run] == ["by mpirun", "on GPUs"]
    console = Console(width=80, file=io.StringIO())
    show_lab(console, result)
    shown = re.sub(r"\s+", " ", console.file.getvalue())
    assert "not run by mpirun: make lab LAB=11 MPI=1" in shown
    assert "send arrays of the host, however many GPUs there are" in shown


def test_grades_say_below_the_table_what_was_not_run(children):
    labs = list(find_labs("3,4,11"))
    results = [run_lab(lab, lab.exercise, children, stop=True) for lab in labs]
    console = Console(width=120, file=io.StringIO())
    show_grades(console, {"me": results})
    shown = console.file.getvalue()
    assert "Not run on a GPU: GPU=1 (labs 3, 4)" in shown
    assert "Not run by mpirun: MPI=1 (labs 11)" in shown
