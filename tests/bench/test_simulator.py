"""The simulator's race with Numba's own: that both run the same, never how fast."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from llm_numba.bench import simulator
from llm_numba.bench.simulator import SimulatorSettings, measure
from llm_numba.bench.simulator_kernels import CASES, case
from llm_numba.cli.app import app
from llm_numba.errors import LLMNumbaError


def test_one_kernel_in_two_simulators_and_fresh_processes(tmp_path):
    path = tmp_path / "simulator.json"
    arguments = ["bench", "simulator", "--out", str(path), "--only", "matmul/16x16x64"]
    result = CliRunner().invoke(
        app, [*arguments, "--rounds", "1", "--repeats", "2", "--numba-repeats", "1"]
    )
    assert result.exit_code == 0, result.output
    record = json.loads(path.read_text())
    assert [result["name"] for result in record["results"]] == [
        *(f"{kind}/matmul/16x16x64" for kind in (
            "numba_first", "numba_again", "ours_first", "ours_again", "ours_explained", "speedup",
            "speedup_explained", "first_call_speedup")),
        "speedup/minimum", "speedup_explained/minimum",
    ]  # fmt: skip
    assert all(result["median"] > 0 for result in record["results"])
    assert {r["name"]: r["target"] for r in record["results"] if "target" in r} == {
        "speedup/matmul/16x16x64": {"at_least": 20.0},
        "speedup_explained/matmul/16x16x64": {"at_least": 8.0},
        "speedup/minimum": {"at_least": 20.0},
        "speedup_explained/minimum": {"at_least": 8.0},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_both_simulators_agree(name):
    list(measure(SimulatorSettings(rounds=1, repeats=1, numba_repeats=1, only=(name,))))


class Children:
    """Stand in for processes: Numba takes 1 s, ours what the test says, case by case."""

    def __init__(self, monkeypatch, **ours):
        self.ours = {name.replace("_", "/"): seconds for name, seconds in ours.items()}
        self.result = {"ours": np.array([1.0, 2.0]), "numba": np.array([1.0, 2.0])}
        self.calls = []
        monkeypatch.setattr(simulator, "_child", self)

    def __call__(self, who, name, repeats):
        self.calls.append((who, repeats))
        seconds = self.ours[name.partition("/")[0]] if who == "ours" else [1.0]
        found = {"first": 2.0, "again": seconds, "explained": [2 * s for s in seconds]}
        return self.result[who], found


ONLY = ("saxpy/4096", "stencil/64x64")


def test_the_smallest_ratio_counts_round_by_round(monkeypatch):
    Children(monkeypatch, saxpy=[0.01, 0.01, 0.5], stencil=[0.04])
    results = {r.name: r for r in measure(SimulatorSettings(rounds=2, only=ONLY))}
    # The median of a process's calls; the ratio of first calls apart.
    assert results["speedup/saxpy/4096"].statistic.median == pytest.approx(100)
    assert results["speedup_explained/saxpy/4096"].statistic.median == pytest.approx(50)
    assert results["first_call_speedup/saxpy/4096"].statistic.median == pytest.approx(1)
    assert results["speedup/minimum"].statistic.median == pytest.approx(25)
    assert results["speedup_explained/minimum"].statistic.n == 2
    assert results["ours_explained/stencil/64x64"].statistic.median == pytest.approx(80)


def test_rounds_are_processes_and_each_simulator_has_its_own_number_of_calls(monkeypatch):
    children = Children(monkeypatch, saxpy=[0.1])
    settings = SimulatorSettings(rounds=2, repeats=7, numba_repeats=3, only=ONLY[:1])
    list(measure(settings))
    assert children.calls == [("numba", 3), ("ours", 7)] * 2


@pytest.mark.parametrize("wrong", [2.1, np.nan])
def test_simulators_that_disagree_are_not_compared(monkeypatch, wrong):
    children = Children(monkeypatch, saxpy=[0.1])
    children.result["ours"] = np.array([1.0, wrong])
    with pytest.raises(LLMNumbaError, match="disagree on saxpy/4096"):
        list(measure(SimulatorSettings(only=ONLY[:1])))


def test_a_kernel_that_is_none_is_refused():
    with pytest.raises(LLMNumbaError, match="no kernel sorting"):
        list(measure(SimulatorSettings(only=("sorting",))))


def test_a_process_that_fails_says_why():
    with pytest.raises(LLMNumbaError, match=r"(?s)fails in our simulator:.*KeyError: 'none'"):
        simulator._child("ours", "none", 1)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_arguments_of_a_seed_are_the_same_each_time_and_the_result_is_not_yet_there(name):
    chosen = case(name)
    one, two = (chosen.arguments(np.random.default_rng(1)) for _ in range(2))
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not one[chosen.output].any()
