"""What a start costs on a GPU: processes that are timed, and all of it once."""

import subprocess
from types import SimpleNamespace

import pytest

from llm_numba.bench import gpu_start
from llm_numba.bench.budget import Budget
from llm_numba.bench.gpu_start import StartSettings, measure
from llm_numba.errors import LLMNumbaError


def run_as(monkeypatch, **ended):
    def run(command, timeout, **_):
        assert timeout == 7
        if not ended:
            raise subprocess.TimeoutExpired(command, timeout)
        return SimpleNamespace(**ended)

    monkeypatch.setattr(gpu_start.subprocess, "run", run)
    return gpu_start._start("storyteller", "/cache", 7)


def test_a_start_tells_how_long_it_took_or_why_it_failed(monkeypatch):
    assert run_as(monkeypatch, returncode=0, stdout='noise\n{"first": 2}\n') == {"first": 2}
    with pytest.raises(LLMNumbaError, match=r"failed: RuntimeError: no driver"):
        run_as(monkeypatch, returncode=1, stderr="Traceback:\nRuntimeError: no driver\n")
    with pytest.raises(LLMNumbaError, match="took longer than 7 s"):
        run_as(monkeypatch)


@pytest.fixture
def starts(monkeypatch):
    """Starts that take ten seconds each, and the time that each was given."""
    now, given = [0.0], []

    def start(model, cache, seconds):
        given.append(seconds)
        if seconds < 10:
            raise LLMNumbaError("Too long.", "Wait.")
        now[0] += 10
        return {"first": 10.0, "loaded": 8.0, "compiled": 3}

    monkeypatch.setattr(gpu_start, "_start", start)
    monkeypatch.setattr(gpu_start, "upload_results", lambda *_: iter([]))

    def run(limit):
        settings = StartSettings(models=("random:tiny", "storyteller"), processes=3)
        shares = {"start/tiny": 1, "start/storyteller": 1}
        budget = Budget(limit, shares, clock=lambda: now[0])
        return list(measure(settings, budget)), budget.left_out, given

    return run


def test_with_time_enough_every_model_starts_as_often_as_asked(starts):
    results, left_out, given = starts(200)
    assert [(each.name, each.statistic.n) for each in results] == [
        (f"start/{kind}/{label}", n)
        for label in ("tiny", "storyteller")
        for kind, n in (("cold", 1), ("warm", 3), ("loaded", 3))
    ]
    assert left_out == {}
    assert len(given) == 8


def test_what_there_is_no_time_for_is_left_out_and_the_rest_stays(starts):
    results, left_out, given = starts(34)
    # A cold start leaves too few of 17 seconds for a warm one. The second model has what is left,
    # and no time for a second warm start.
    assert given == [17, 7, 24, 14]
    assert [(each.name, each.statistic.n) for each in results] == [
        ("start/cold/tiny", 1),
        ("start/cold/storyteller", 1),
        ("start/warm/storyteller", 1),
        ("start/loaded/storyteller", 1),
    ]
    assert left_out == {"start/tiny": "LLMNumbaError: Too long. Wait."}


def test_shares_are_in_the_order_of_the_parts():
    budget = StartSettings(models=("random:tiny", "storyteller")).budget(80)
    parts = ("upload", "start/tiny", "start/storyteller")
    assert [budget.seconds_left(part) for part in parts] == pytest.approx([20, 50, 80], abs=1)


@pytest.mark.gpu
@pytest.mark.slow
def test_everything_is_measured_once():
    settings = StartSettings("tiny", "tiny", 1, ("random:tiny",), 1)
    results = {each.name: each for each in measure(settings, settings.budget(600))}
    cold, warm = (results[f"start/{kind}/tiny"].statistic.median for kind in ("cold", "warm"))
    assert results["start/cold/tiny"].shape["kernels"] > 5
    assert warm < cold
    assert {name for name in results if name.startswith("upload/")} == {
        "upload/bus",
        *(f"upload/{place}/{what}" for place in ("cached", "disk") for what in ("read", "load")),
        *(f"upload/{place}/share" for place in ("cached", "disk")),
    }
