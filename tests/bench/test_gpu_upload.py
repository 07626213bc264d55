"""How fast weights come to a GPU: the file that is loaded, how it is read, and what is told."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from llm_numba.bench import gpu_upload
from llm_numba.bench.budget import Budget
from llm_numba.bench.gpu_upload import upload_results, write_checkpoint
from llm_numba.errors import LLMNumbaError
from llm_numba.models import open_model, resolve_model
from llm_numba.runtime import staging


@pytest.fixture
def checkpoint(tmp_path):
    write_checkpoint(tmp_path, "tiny")
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
    read, real = [], gpu_upload.os.preadv

    def counted(file, buffers, begin):
        read.append((begin, real(file, buffers, begin)))
        return read[-1][1]

    monkeypatch.setattr(gpu_upload.os, "preadv", counted)
    gpu_upload._read(path)
    assert sorted(begin for begin, _ in read) == list(range(0, path.stat().st_size, 1000))
    assert sum(count for _, count in read) == path.stat().st_size


def test_without_room_for_it_no_checkpoint_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_upload, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(LLMNumbaError, match=r"has room for 0.0 GB, .* takes 2\.5"):
        write_checkpoint(tmp_path, "llama-3.2-1b")
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("kept", [True, False])
def test_whether_a_file_was_dropped_is_asked_without_reading_it(checkpoint, monkeypatch, kept):
    def ask(file, buffers, begin, flags):
        assert flags == gpu_upload.os.RWF_NOWAIT
        if not kept:
            raise BlockingIOError
        return 1

    monkeypatch.setattr(gpu_upload.os, "preadv", ask)
    assert gpu_upload._drop(checkpoint / "model.safetensors") is not kept


def results_of(monkeypatch, bus, rates):
    bus = iter(bus)
    monkeypatch.setattr(gpu_upload, "_bus", lambda: next(bus))
    monkeypatch.setattr(gpu_upload, "_rates", lambda *call: rates[call[2]])
    budget = Budget(60, {"upload": 1})
    found = {each.name: each for each in upload_results("tiny", "tiny", 3, budget)}
    return found, budget.left_out


def test_a_load_is_held_to_the_bus_and_one_from_a_disk_to_the_slower_of_both(monkeypatch):
    cached = {"read": [40.0, 44.0, 50.0], "load": [39.0, 41.6, 44.2]}
    disk = {"read": [2.0, 2.5, 3.0], "load": [2.0, 2.25, 2.5]}
    found, left_out = results_of(monkeypatch, [50, 54, 52], {False: cached, True: disk})
    assert found["upload/cached/share"].statistic.median == pytest.approx(41.6 / 52)
    assert found["upload/disk/share"].statistic.median == pytest.approx(2.25 / 2.5)
    size = 2 * sum(
        info.num_elements
        for info in open_model(resolve_model("random:tiny")).checkpoint.tensors.values()
    )
    assert found["upload/disk/read"].shape == {"bytes": size, "model": "tiny"}
    assert left_out == {}


def test_a_file_that_is_not_where_it_should_be_is_left_out(monkeypatch):
    found, left_out = results_of(monkeypatch, [50, 54, 52], {False: None, True: None})
    assert list(found) == ["upload/bus"]
    assert left_out == {
        "upload/cached": "the file does not fit into memory",
        "upload/disk": "the system does not drop the file from memory",
    }


@pytest.fixture
def loads(monkeypatch, checkpoint):
    """What is done with a checkpoint by a machine that has so much memory, and drops files."""
    done = []
    cuda = SimpleNamespace(Device=lambda: SimpleNamespace(synchronize=lambda: None))
    pool = SimpleNamespace(free_all_blocks=lambda: done.append("free"))
    fake = SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(gpu_upload, "load_model", lambda *_, **__: done.append("load"))
    monkeypatch.setattr(gpu_upload, "_read", lambda path: done.append("read"))

    def run(from_disk, memory=10**12, drops=True, limit=60.0):
        monkeypatch.setattr(gpu_upload, "available_memory", lambda: memory)
        monkeypatch.setattr(gpu_upload, "_drop", lambda path: done.append("drop") or drops)
        budget = Budget(limit, {"upload": 1})
        return gpu_upload._rates(checkpoint, 1000, from_disk, 2, budget), done

    return run


def test_what_is_on_the_disk_is_dropped_before_each_time(loads):
    rates, done = loads(from_disk=True)
    assert done == ["load", *["drop", "read", "drop", "load"] * 2, "free"]
    assert [len(each) for each in rates.values()] == [2, 2]


def test_what_is_cached_is_not_dropped_and_ends_when_time_is_up(loads):
    _, done = loads(from_disk=False, limit=0)
    assert done == ["load", "read", "load", "free"]


def test_a_file_that_no_cache_can_keep_is_not_measured(loads):
    assert loads(from_disk=False, memory=999) == (None, [])
    assert loads(from_disk=True, drops=False) == (None, ["load", "drop"])
