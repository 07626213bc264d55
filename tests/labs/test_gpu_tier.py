"""The tier on a GPU: visibly skipped without one; its bookkeeping in the simulator; and on one."""

import numpy as np
import pytest
from grader import close
from grader.costs import Raced
from grader.gpu import GPU
from grader.lab import Lab
from grader.run import run_lab
from grader.verdict import Failed
from submissions import FIRST, solution

from llm_numba.runtime import gpu_problem

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
