"""What a start costs on a GPU: the file that is loaded, how it is read, and all of it once."""

import numpy as np
import pytest

from llm_numba.bench import gpu_start
from llm_numba.bench.gpu_start import StartSettings, measure
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


@pytest.mark.gpu
@pytest.mark.slow
def test_everything_is_measured_once():
    if problem := gpu_problem():
        pytest.skip(f"no kernel runs on a GPU here: {problem}")
    settings = StartSettings(("random:tiny",), processes=1, shape="tiny", repeats=1)
    results = {result.name: result for result in measure(settings)}
    cold, warm = (results[f"start/{kind}/tiny"].statistic.median for kind in ("cold", "warm"))
    assert results["start/cold/tiny"].shape["kernels"] > 5
    assert warm < cold
    assert {name for name in results if name.startswith("upload/")} == {
        "upload/bus",
        *(f"upload/{place}/{what}" for place in ("cached", "disk") for what in ("read", "load")),
        *(f"upload/{place}/share" for place in ("cached", "disk")),
    }
