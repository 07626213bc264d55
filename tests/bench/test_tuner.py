"""Tuning: every candidate is checked and timed, the best is kept, and launches use it."""

import json
from typing import NamedTuple

import numpy as np
import pytest
from numba import cuda
from typer.testing import CliRunner

from llm_numba.bench import kernels, tuner
from llm_numba.bench.gpu_timing import GPUTimer
from llm_numba.bench.tuner import Tuned, tune, write_table
from llm_numba.cli.app import app
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels import tuning
from llm_numba.kernels.basics import LADDER
from llm_numba.kernels.tuning import Tunable, read_table, user_table
from llm_numba.runtime import Launch

GPU = "NVIDIA Test 80GB"


class Config(NamedTuple):
    threads: int


@cuda.jit
def scaled(alpha, x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = y[i] + alpha * x[i]


def plan(config, alpha, x, y, out):
    grid = (-(-x.size // config.threads),)
    return (Launch(scaled, grid, (config.threads,), (np.float32(alpha), x, y, out)),)


def plan_with_a_fault(config, alpha, x, y, out):
    return plan(config, alpha if config.threads == 128 else 2 * alpha, x, y, out)


def saxpy(plan=plan):
    return Tunable(
        LADDER,
        rule=lambda shape, dtype: Config(128),
        candidates=lambda shape, dtype: tuple(map(Config, (64, 128, 256))),
        plan=plan,
        shapes=((1000,), (3000,)),
    )


class Ticks:
    """Events; work takes as long as its number of calls says."""

    now = 0.0

    def record(self):
        self.now += 1e-3
        return self.now

    def seconds(self, begin, end):
        return end - begin

    def synchronize(self):
        pass


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "_ROTATED_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning.forget()
    yield
    tuning.forget()


def tuned(tunable, shapes=(), dtypes=("float32",)):
    timer = GPUTimer(repeats=5, warmup=1, events=Ticks(), clock=lambda: 0.0)
    return list(tune([tunable], shapes, dtypes, timer, "sim"))


def test_each_shape_and_candidate_is_timed():
    found = tuned(saxpy())
    assert [each.key for each in found] == ["saxpy/float32/1000", "saxpy/float32/3000"]
    for each in found:
        assert each.seconds == pytest.approx({Config(n): 1e-3 for n in (64, 128, 256)})


def test_a_candidate_that_gives_something_else_ends_it():
    with pytest.raises(LLMNumbaError, match=r"saxpy with Config\(threads=64\): `out` differs"):
        tuned(saxpy(plan_with_a_fault))


def test_a_shape_of_another_number_of_axes_is_refused():
    with pytest.raises(LLMNumbaError, match="has the axes N, and the shape"):
        tuned(saxpy(), [(3, 4)])


@pytest.mark.parametrize(
    ("seconds", "best"), [((3, 2, 1), 256), ((1, 2, 3), 64), ((1.99, 2, 2), 128), ((2, 2, 2), 128)]
)
def test_the_rule_stays_unless_another_is_clearly_faster(seconds, best):
    configs = map(Config, (64, 128, 256))
    found = Tuned("saxpy/float32/1", dict(zip(configs, seconds, strict=True)), Config(128))
    assert found.best == Config(best)


def test_a_table_keeps_the_entries_that_it_has(tmp_path):
    path = tmp_path / "deep" / "table.json"
    first = Tuned("a/float32/1", {Config(64): 1.0, Config(128): 2.0}, Config(128))
    second = Tuned("b/float32/1", {Config(128): 2.0}, Config(128))
    write_table(path, [first])
    write_table(path, [second], commit="0" * 40)
    table = read_table(path)
    assert list(table["entries"]) == ["a/float32/1", "b/float32/1"]
    assert table["entries"]["a/float32/1"] == {
        "config": {"threads": 64},
        "seconds": 1.0,
        "rule": {"threads": 128},
        "rule_seconds": 2.0,
    }
    assert table["environment"]["git"]["commit"] == "0" * 40


# -- The command ----------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, ["tune", *arguments])


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["nothing"], "There is nothing to tune in 'nothing'"),
        (["--shape", "1,x"], "--shape 1,x is no shape"),
        (["--shape", "1,0"], "--shape 1,0 is no shape"),
        (["--dtype", "int8"], "--dtype int8 is no storage format"),
        (["--show"], "There is no NVIDIA GPU here"),
    ],
)
def test_mistakes_are_named(arguments, cause, monkeypatch):
    monkeypatch.setattr("llm_numba.runtime.machine.gpus", lambda: [])
    monkeypatch.setattr("llm_numba.runtime.kernel_device", lambda device: device)
    done = run(*arguments)
    assert done.exit_code == 2
    assert cause in " ".join(done.stderr.split())


def test_the_table_is_shown_without_a_gpu_s_work(monkeypatch):
    monkeypatch.setattr("llm_numba.runtime.machine.gpus", lambda: [{"name": GPU}])
    monkeypatch.setattr(tuner, "all_tunables", lambda: {"saxpy": saxpy()})
    entry = {"config": {"threads": 64}, "seconds": 12e-6, "rule_seconds": 15e-6}
    path = user_table(GPU)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"entries": {"saxpy/float32/1": entry, "other/float32/1": entry}}))
    done = run("--show", "saxpy")
    assert done.exit_code == 0, done.output
    assert "saxpy/float32/1" in done.output
    assert "threads 64" in done.output
    assert "12.0 µs" in done.output
    assert "15.0 µs" in done.output
    assert "other" not in done.output
