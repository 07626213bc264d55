"""The CPU benchmark on tiny settings: that it measures everything, never how fast."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from llm_numba.bench.bandwidth import weight_bandwidth
from llm_numba.bench.engine_steps import EngineTimer
from llm_numba.bench.startup import load_cost
from llm_numba.bench.synthetic import write_checkpoint
from llm_numba.cli.app import app
from llm_numba.models import open_model

TINY = ("--repeats", "2", "--processes", "1", "--prefill-tokens", "20", "--new-tokens", "4",
        "--synthetic-megabytes", "1")  # fmt: skip


@pytest.fixture(scope="module")
def record(tiny_dir, tmp_path_factory):
    """The record of one tiny run."""
    path = tmp_path_factory.mktemp("bench") / "cpu.json"
    arguments = ["bench", "cpu", "--out", str(path), "--model", str(tiny_dir), *TINY]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "decoding, batch of 16" in result.stdout
    assert str(path) in result.stderr
    return json.loads(path.read_text())


def test_everything_is_measured(record, tiny_dir):
    name = tiny_dir.name
    names = [result["name"] for result in record["results"]]
    assert names == [
        "startup/python", "startup/import", "startup/import_llm", "startup/help",
        f"load_time/{name}", f"load_peak/{name}", "load_time/synthetic",
        "load_peak/synthetic", "prefill/tokens=20", "decode/batch=1",
        "decode/batch=2", "decode_speedup/batch=2", "decode/batch=4", "decode_speedup/batch=4",
        "decode/batch=8", "decode_speedup/batch=8", "decode/batch=16", "decode_speedup/batch=16",
        "bandwidth/read",
    ]  # fmt: skip


def test_every_figure_is_positive_and_ordered(record):
    for result in record["results"]:
        assert 0 <= result["p10"] <= result["median"] <= result["p90"] < math.inf
        assert result["n"] >= 1
    assert record["settings"]["repeats"] == 2


def test_targets_are_those_of_the_project(record):
    targets = {r["name"]: r["target"] for r in record["results"] if "target" in r}
    assert targets == {
        "startup/import": {"at_most": 300.0},
        "startup/import_llm": {"at_most": 300.0},
        "load_peak/synthetic": {"at_most": 1.2},
        "decode/batch=1": {"at_least": 300.0},
        "decode_speedup/batch=16": {"at_least": 4.0},
    }


class CountingLLM:
    """Stands in for a model: hands out chunks while a clock is turned by hand."""

    def __init__(self, llm, clock):
        self.config, self.engine = llm.config, llm.engine
        self.prompts = []
        self._llm, self._clock = llm, clock

    def generate(self, prompts, params):
        self.prompts += prompts
        self._clock.now += 0.25
        return self._llm.generate(prompts, params)

    def stream(self, prompts, params):
        self.prompts += prompts
        for i, chunk in enumerate(self._llm.stream(prompts, params)):
            # The first tokens of all sequences come out of a slow prefill.
            self._clock.now += 100.0 if i < len(prompts) else 0.5
            yield chunk


class Clock:
    """A clock that is turned by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timed(tiny_llm):
    """A timer whose clock shows 0.5 s for each decoded token."""
    clock = Clock()
    llm = CountingLLM(tiny_llm, clock)
    return EngineTimer(llm, clock=clock), llm


def test_decode_rate_leaves_the_prefill_out(timed):
    timer, llm = timed
    assert timer.decode_rate(batch=4, prompt_tokens=5, new_tokens=9) == 2.0
    assert [len(prompt) for prompt in llm.prompts] == [5] * 4


def test_prefill_is_one_prompt_and_one_token(timed):
    timer, llm = timed
    assert timer.first_token(7) == 0.25
    assert [len(prompt) for prompt in llm.prompts] == [7]


def test_no_prompt_is_used_twice(timed):
    timer, llm = timed
    for _ in range(5):
        timer.first_token(16)
    assert len({tuple(prompt) for prompt in llm.prompts}) == 5


@pytest.mark.parametrize("megabytes", [15, 40])
def test_synthetic_checkpoint_is_sound_and_about_as_large_as_asked(tmp_path, megabytes):
    parameters = write_checkpoint(tmp_path, megabytes)
    tensors = open_model(tmp_path).checkpoint.tensors.values()
    assert sum(info.num_elements for info in tensors) == parameters
    assert {info.storage for info in tensors} == {"BF16"}
    assert np.isclose(2e-6 * parameters, megabytes, atol=3.2)


def test_peak_memory_of_loading_covers_the_weights(tmp_path):
    parameters = write_checkpoint(tmp_path, 40)
    cost = load_cost(str(tmp_path))
    assert cost["seconds"] > 0
    assert cost["peak_bytes"] > 4 * parameters


def test_bandwidth_counts_the_matrix_once_a_product(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("llm_numba.bench.bandwidth.time.perf_counter", lambda: next(clock))
    # Every product takes one second by this clock; 1.6 MB are 97 rows of 4,096 numbers.
    assert weight_bandwidth(1.6, repeats=3, warmup=2) == [97 * 4096 * 4 / 1e9] * 3
