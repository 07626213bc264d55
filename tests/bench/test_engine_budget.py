"""Time for the engine's benchmark: who has how much, and what becomes of a part without."""

import json
import weakref

import pytest
from typer.testing import CliRunner

from llm_numba import LLM
from llm_numba.bench import engine as bench_engine
from llm_numba.bench.budget import Budget
from llm_numba.bench.engine import PARTS, EngineSettings, measure
from llm_numba.bench.engine_serving import serve
from llm_numba.bench.engine_steps import EngineTimer
from llm_numba.cli.app import app

MODEL = "random:tiny"


def test_parts_end_one_after_the_other_and_leave_what_they_do_not_need():
    now = [100.0]
    budget = Budget(60, {"first": 1, "second": 2, "third": 3}, clock=lambda: now[0])
    ends = [budget.seconds_left(part) for part in ("first", "second", "third", None)]
    assert ends == [10, 30, 60, 60]
    now[0] += 12
    assert budget.seconds_left("first") == 0
    assert not budget.allows("first/b", "first")
    assert budget.allows("first/important")
    assert budget.seconds_left("second") == 18
    assert budget.left_out == {"first/b": "its time was up"}


def test_shares_are_of_the_parts_that_are_asked_for():
    assert sum(PARTS.values()) == pytest.approx(1)
    settings = EngineSettings(MODEL, "cpu", parts=("prefill", "decode"))
    budget = settings.budget(600)
    assert budget.seconds_left("decode") == pytest.approx(500, abs=1)
    assert budget.seconds_left("prefill") == pytest.approx(600, abs=1)


def test_what_is_asked_for_most_comes_first():
    points = EngineSettings("random:llama-3-8b").points
    assert points[:6] == [(1, 512), (1, 8192), (8, 512), (8, 8192), (32, 512), (32, 8192)]
    assert len(points) == len(set(points)) == 18
    few = EngineSettings(MODEL, batches=(4, 32), contexts=(128,))
    assert few.points == [(32, 512), (4, 512), (4, 128), (32, 128)]


class Hurry(Budget):
    """A budget of a part that is over from the beginning, while there is time for all others."""

    def __init__(self, part):
        super().__init__(600, PARTS)
        self._ends[part] = 0


def _names(settings, budget):
    return [result.name for result in measure(settings, budget)]


QUICK = {"batches": (1, 4), "contexts": (32,), "context": 100, "prompts": (20,), "warmup": 1,
         "steps": 3, "requests": 2, "point_seconds": 0.0, "lengths": (4, 8)}  # fmt: skip


def test_points_that_must_be_there_have_the_time_of_all():
    settings = EngineSettings(
        MODEL, "cpu", parts=("decode",), first_batches=(4,), first_contexts=(100,), **QUICK
    )
    budget = Hurry("decode")
    names = _names(settings, budget)
    assert [name for name in names if name.startswith("decode")] == ["decode/batch=4/context=100"]
    assert sorted(budget.left_out) == ["decode/batch=1/context=100", "decode/batch=1/context=32"]


@pytest.mark.parametrize("part", ["prefill", "fusion", "serving"])
def test_a_part_without_time_is_left_out(part):
    budget = Hurry(part)
    names = _names(EngineSettings(MODEL, "cpu", parts=(part,), **QUICK), budget)
    assert not [name for name in names if not name.startswith("memory")]
    assert {name.split("/")[0] for name in budget.left_out} == {
        "first_token" if part == "prefill" else part
    }


def test_requests_end_when_time_is_up():
    llm = LLM(MODEL, device="cpu", max_num_seqs=4)
    before = llm.engine.stats().num_free_blocks
    answers = iter([True] * 5 + [False])
    assert list(serve(EngineTimer(llm), 4, (4, 30), 0, 2, lambda: next(answers))) == []
    assert llm.engine.stats().num_free_blocks == before
    assert not llm.engine.running


def test_a_part_that_fails_takes_nothing_from_the_others(monkeypatch):
    def fail(*_):
        raise RuntimeError("device lost")
        yield

    monkeypatch.setattr(bench_engine, "fusion_results", fail)
    parts = ("prefill", "fusion", "serving")
    settings = EngineSettings(MODEL, "cpu", parts=parts, **QUICK)
    budget = settings.budget(600)
    names = _names(settings, budget)
    assert {"first_token/tokens=20", "serving/all"} <= set(names)
    assert budget.left_out == {"fusion": "RuntimeError: device lost"}


def test_a_model_is_gone_before_the_next_part(monkeypatch):
    alive = weakref.WeakSet()

    def load(*arguments, **options):
        assert not alive
        llm = LLM(*arguments, **options)
        alive.add(llm.engine.runner)
        return llm

    monkeypatch.setattr(bench_engine, "LLM", load)
    names = _names(EngineSettings(MODEL, "cpu", **QUICK), Budget(600, PARTS))
    assert "serving/all" in names


def test_when_time_is_up_the_record_has_what_there_is(tmp_path):
    path = tmp_path / "engine.json"
    arguments = ["bench", "engine", "-m", MODEL, "--device", "cpu", "--out", str(path)]
    result = CliRunner().invoke(app, [*arguments, "--limit", "0"])
    assert result.exit_code == 0, result.output
    record = json.loads(path.read_text())
    names = [each["name"] for each in record["results"]]
    assert names == ["memory_speed", "memory/weights", "memory/KV cache"]
    assert record["left_out"]["serving"] == "its time was up"
    assert "Left out: serving: its time was up" in result.stderr
