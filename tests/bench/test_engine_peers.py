"""Peers of the engine's benchmark: a process of their own that may fail, or take too long."""

import json
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from llm_numba.bench import engine_peers
from llm_numba.bench.budget import Budget
from llm_numba.bench.engine_peers import peer_results
from llm_numba.models import resolve_model

MODEL = "random:tiny"


def test_without_transformers_there_is_no_peer(monkeypatch):
    monkeypatch.setattr(engine_peers.importlib.util, "find_spec", lambda name: None)
    budget = Budget(60, {"peers": 1})
    assert list(peer_results(MODEL, 512, 100, budget)) == []
    why = "PyTorch or Transformers is not installed"
    assert budget.left_out == {"peer/compiled": why, "peer/eager": why}


def _peers(monkeypatch, run):
    monkeypatch.setattr(engine_peers.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(engine_peers.subprocess, "run", run)
    budget = Budget(60, {"peers": 1})
    found = [result.to_json() for result in peer_results(MODEL, 512, 100, budget)]
    return found, budget.left_out


LINE = json.dumps({"name": "eager", "versions": {"torch": "1"}, "seconds": [0.01, 0.02, 0.03]})


def test_what_transformers_needed_comes_in_milliseconds(monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 0, f"{LINE}\n".encode())

    (found,), _ = _peers(monkeypatch, run)
    assert (found["name"], found["median"], found["unit"]) == ("peer/eager", 20.0, "ms")
    assert found["shape"]["mean_ms"] == pytest.approx(20.0)
    assert found["shape"]["torch"] == "1"


def test_a_peer_that_takes_too_long_leaves_what_it_had_printed(monkeypatch):
    def run(command, timeout, **_):
        assert 59 < timeout <= 60
        raise subprocess.TimeoutExpired(command, timeout, output=f"{LINE}\n{LINE[:9]}".encode())

    found, left_out = _peers(monkeypatch, run)
    assert [each["name"] for each in found] == ["peer/eager"]
    assert left_out == {"peer/compiled": "its time was up"}


def test_a_peer_that_fails_leaves_its_last_word(monkeypatch):
    def run(command, stderr, **_):
        stderr.write("Traceback:\n  many lines\nOutOfMemoryError: CUDA out of memory.\n")
        return subprocess.CompletedProcess(command, 1, b"")

    why = "OutOfMemoryError: CUDA out of memory."
    assert _peers(monkeypatch, run) == ([], {"peer/compiled": why, "peer/eager": why})


class PretendModel:
    """A model of Transformers that cannot be compiled."""

    config_class = staticmethod(lambda **fields: SimpleNamespace(vocab_size=7))

    def __init__(self, config):
        pass

    def eval(self):
        return self


def test_where_nothing_can_be_compiled_the_other_peer_still_runs(monkeypatch, capsys):
    torch = SimpleNamespace(
        bfloat16=None, set_default_dtype=lambda dtype: None, device=lambda name: nullcontext(),
        randint=lambda most, shape, device: shape, __version__="1",
    )  # fmt: skip
    architecture = resolve_model(MODEL) / "config.json"
    name = json.loads(architecture.read_text())["architectures"][0]
    transformers = SimpleNamespace(__version__="2", **{name: PretendModel})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "transformers", transformers)

    def token_times(model, prompt, count, options):
        if options:
            raise RuntimeError("no compiler")
        # Half of what counts lies behind the context, and the warm-up before it.
        assert (prompt, count) == ((1, 40 - 15 - 20), 20 + 30 + 1)
        return list(range(count))

    monkeypatch.setattr(engine_peers, "_token_times", token_times)
    (found,) = engine_peers.measure_here(str(resolve_model(MODEL)), 40, 100)
    assert found == {
        "name": "eager", "versions": {"torch": "1", "transformers": "2"}, "seconds": [1] * 30
    }  # fmt: skip
    assert "RuntimeError: no compiler" in capsys.readouterr().err
