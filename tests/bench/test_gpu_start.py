"""What a start costs on a GPU: the file that is loaded, how it is read, and all of it once."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from llm_numba.bench import gpu_start
from llm_numba.bench.budget import Budget
from llm_numba.bench.gpu_start import StartSettings, measure
from llm_numba.errors import LLMNumbaError
from llm_numba.models import open_model, resolve_model
from llm_numba.runtime import gpu_problem, staging


@pytest.fixture
def checkpoint(tmp_path):
    gpu_start._write_checkpoint(tmp_path, "tiny")
    return tmp_path


def test_the_checkpoint_has_the_shape_and_sound_numbers(checkpoint):
    found, wanted = open_model(checkpoint), open_model(resolve_model("random:tiny"))
    assert found.config == wanted.config
    shapes = [
        {name: (info.shape, info.storage) for name, info in files.checkpoint.tensors.items()}
        for files in (found, wanted)
    ]
    assert shapes[0] == shapes[1]
    stored = np.fromfile(checkpoint / "model.safetensors", "<u2")[-1000:]
    assert len(np.unique(stored)) > 100


def test_reading_alone_reads_each_byte_once(checkpoint, monkeypatch):
    monkeypatch.setattr(staging, "PIECE_BYTES", 1000)
    path = checkpoint / "model.safetensors"
    read, real = [], gpu_start.os.preadv

    def counted(file, buffers, begin):
        read.append((begin, real(file, buffers, begin)))
        return read[-1][1]

    monkeypatch.setattr(gpu_start.os, "preadv", counted)
    gpu_start._read(path)
    assert sorted(begin for begin, _ in read) == list(range(0, path.stat().st_size, 1000))
    assert sum(count for _, count in read) == path.stat().st_size


def test_without_room_for_it_no_checkpoint_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_start, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(LLMNumbaError, match=r"has room for 0.0 GB, .* takes 2\.5"):
        gpu_start._write_checkpoint(tmp_path, "llama-3.2-1b")
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("kept", [True, False])
def test_whether_a_file_was_dropped_is_asked_without_reading_it(checkpoint, monkeypatch, kept):
    def ask(file, buffers, begin, flags):
        assert flags == gpu_start.os.RWF_NOWAIT
        if not kept:
            raise BlockingIOError
        return 1

    monkeypatch.setattr(gpu_start.os, "preadv", ask)
    assert gpu_start._drop(checkpoint / "model.safetensors") is not kept


def uploads(monkeypatch, rates):
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    fake = SimpleNamespace(get_default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(gpu_start, "_rates", lambda *_: (rates, 1000))
    settings = StartSettings(models=())
    budget = StartSettings().budget(60)
    found = {each.name: each for each in gpu_start._uploads(settings, budget)}
    return found, budget.left_out


CACHED = {"bus": [50.0, 54.0, 52.0], "cached/read": [60.0, 64.0, 70.0],
          "cached/load": [39.0, 41.6, 44.2]}  # fmt: skip


def test_a_load_is_held_to_the_slower_of_reading_and_bus(monkeypatch):
    rates = CACHED | {"disk/read": [2.0, 2.5, 3.0], "disk/load": [2.0, 2.25, 2.5]}
    found, left_out = uploads(monkeypatch, rates)
    assert found["upload/cached/share"].statistic.median == pytest.approx(41.6 / 52)
    assert found["upload/disk/share"].statistic.median == pytest.approx(2.25 / 2.5)
    assert left_out == {}


def test_where_files_stay_in_memory_the_disk_is_left_out(monkeypatch):
    found, left_out = uploads(monkeypatch, dict(CACHED))
    assert not [name for name in found if name.startswith("upload/disk")]
    assert left_out == {"upload/disk": "the system does not drop the file from memory"}


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
    monkeypatch.setattr(gpu_start, "_uploads", lambda settings, budget: iter([]))

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
    if problem := gpu_problem():
        pytest.skip(f"no kernel runs on a GPU here: {problem}")
    settings = StartSettings("tiny", 1, ("random:tiny",), 1)
    results = {each.name: each for each in measure(settings, settings.budget(600))}
    cold, warm = (results[f"start/{kind}/tiny"].statistic.median for kind in ("cold", "warm"))
    assert results["start/cold/tiny"].shape["kernels"] > 5
    assert warm < cold
    assert {name for name in results if name.startswith("upload/")} == {
        "upload/bus",
        *(f"upload/{place}/{what}" for place in ("cached", "disk") for what in ("read", "load")),
        *(f"upload/{place}/share" for place in ("cached", "disk")),
    }
