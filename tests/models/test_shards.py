"""Checkpoints in shards: read back, read otherwise, cut again, refused where they do not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from splitting import FIXTURES, LAYOUTS, files_of, in_parts, load, scored, weights_of

from llm_numba import LLM
from llm_numba.errors import CheckpointError, ConfigError, ParallelError
from llm_numba.models import (
    Checkpoint,
    open_model,
    resolve_model,
    shard_writer,
    split_model,
    write_shards,
)
from llm_numba.models.checkpoint import read_infos
from llm_numba.models.reading import TensorReader
from llm_numba.models.split import windows_of
from llm_numba.parallel import Seat

# Ranks, stages; GPT-2's three heads divide otherwise.
SPLITS = {
    "llama3-tied": [(1, 1), (2, 1), (1, 2), (4, 2)],
    "qwen2": [(2, 1), (4, 1), (2, 2)],
    "qwen3-biases": [(2, 2), (4, 1)],
    "gpt2": [(3, 1), (1, 2)],
    "gpt2-as-on-the-hub": [(3, 2)],
}
CASES = [(family, *split) for family, splits in SPLITS.items() for split in splits]
each_case = pytest.mark.parametrize(("family", "ranks", "stages"), CASES)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def whole_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    read = TensorReader(checkpoint)
    return {
        name: read(name, tuple(map(range, info.shape))) for name, info in checkpoint.tensors.items()
    }


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


# -- There and back -----------------------------------------------------------------------------


@each_layout
@each_case
def test_shards_are_the_whole_model_to_whom_reads_them(tmp_path, family, ranks, stages, layout):
    files = files_of(family)
    paths = write_shards(files, tmp_path / "out", ranks, stages, layout)
    assert len(paths) == ranks * stages
    found = open_model(tmp_path / "out")
    assert found.config == files.config
    same(whole_of(found.checkpoint), whole_of(files.checkpoint))


@each_layout
@each_case
def test_ranks_of_the_same_split_find_each_window_in_one_piece(
    tmp_path, family, ranks, stages, layout
):
    files = files_of(family)
    write_shards(files, tmp_path / "out", ranks, stages, layout)
    found = open_model(tmp_path / "out").checkpoint
    shapes = {name: info.shape for name, info in found.tensors.items()}
    read, wanted = TensorReader(found), TensorReader(files.checkpoint)
    for stage in range(stages):
        for rank in range(ranks):
            partition = split_model(files.config, Seat(rank, ranks), stage, stages)
            for name, parts in windows_of(shapes, files.config, partition, layout).items():
                for window in parts:
                    assert len(found.sources(name, window)) == 1
                    np.testing.assert_array_equal(read(name, window), wanted(name, window))


@each_layout
def test_another_split_reads_them_too(tmp_path, layout):
    """Two ranks wrote, four read, in both layouts: each window comes in pieces, or out of one."""
    files = files_of("qwen2")
    write_shards(files, tmp_path / "out", 2, 2, "gather")
    found = open_model(tmp_path / "out")

    def arrays(model):
        return dict(weights_of(model))

    wanted = in_parts(files, 4, arrays, "float32", layout)
    for mine, others in zip(in_parts(found, 4, arrays, "float32", layout), wanted, strict=True):
        same(mine, others)


@each_layout
def test_shards_of_shards_are_those_of_the_model_byte_for_byte(tmp_path, layout):
    files = files_of("qwen3-biases")
    direct = write_shards(files, tmp_path / "direct", 4, 2, layout)
    write_shards(files, tmp_path / "first", 2, 1, "gather")
    detour = write_shards(open_model(tmp_path / "first"), tmp_path / "second", 4, 2, layout)
    for one, other in zip(direct, detour, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()


def test_the_engine_loads_a_directory_of_shards(tmp_path, tiny_dir):
    write_shards(open_model(tiny_dir), tmp_path / "out", 2, 2)
    whole, sharded = LLM(tiny_dir, device="cpu"), LLM(tmp_path / "out", device="cpu")
    assert sharded.tokenizer.encode("red ball") == whole.tokenizer.encode("red ball")
    assert sharded.default_sampling_params() == whole.default_sampling_params()
    np.testing.assert_array_equal(sharded.logits([256, 65, 66]), whole.logits([256, 65, 66]))


def test_ranks_compute_with_shards_what_the_whole_model_computes(tmp_path):
    files = files_of("llama3-tied")
    write_shards(files, tmp_path / "out", 2)
    found = open_model(tmp_path / "out")
    for mine, wanted in zip(in_parts(found, 2, scored), in_parts(files, 2, scored), strict=True):
        np.testing.assert_array_equal(mine[0], wanted[0])
    np.testing.assert_array_equal(scored(load(found))[0], scored(load(files))[0])


def test_each_tensor_keeps_its_format_and_lies_aligned(tmp_path, tiny_checkpoint):
    """Norms in float32 beside products in bfloat16, of odd lengths."""
    directory = tiny_checkpoint(hidden_size=33, head_dim=8, vocab_size=271)
    tensors = load_file(directory / "model.safetensors")
    norms = {n: t.astype(np.float32) for n, t in tensors.items() if "norm" in n}
    save_file(tensors | norms, directory / "model.safetensors")
    files = open_model(directory)
    for path in write_shards(files, tmp_path / "out", 4):
        for name, tensor in load_file(path).items():
            assert tensor.dtype == (tensors | norms)[name].dtype
        for info in read_infos(path).values():
            assert info.begin % info.itemsize == 0
    same(whole_of(open_model(tmp_path / "out").checkpoint), tensors | norms)


def test_progress_counts_the_bytes_of_all_files(tmp_path):
    calls = []
    paths = write_shards(
        files_of("qwen2"), tmp_path / "out", 2, progress=lambda *call: calls.append(call)
    )
    written = sum(sum(t.nbytes for t in load_file(path).values()) for path in paths)
    assert calls[-1][1:] == (written, written)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


# -- All or nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_cut_short_leaves_nothing(tmp_path, monkeypatch, error):
    real, written = shard_writer._write_file, []

    def write(path, *rest):
        if written:
            path.write_bytes(b"half of it")
            raise error
        written.append(path)
        real(path, *rest)

    monkeypatch.setattr(shard_writer, "_write_file", write)
    expected = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_shards(files_of("qwen2"), tmp_path / "out", 2)
    assert written
    assert list(tmp_path.iterdir()) == []
    if expected is CheckpointError:
        assert "No space left on device" in caught.value.cause


def test_an_empty_directory_is_filled_and_no_other(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    write_shards(files_of("qwen2"), empty, 2)
    before = sorted(path.name for path in empty.iterdir())
    with pytest.raises(CheckpointError, match="exists already"):
        write_shards(files_of("qwen2"), empty, 4)
    assert sorted(path.name for path in empty.iterdir()) == before
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        write_shards(files_of("qwen2"), tmp_path / "file", 2)


def test_parents_are_made_and_a_place_that_refuses_is_named(tmp_path):
    write_shards(files_of("qwen2"), tmp_path / "a" / "b", 2)
    assert open_model(tmp_path / "a" / "b").checkpoint.split.tensor_parallel == 2
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_shards(files_of("qwen2"), tmp_path / "file" / "out", 2)


def test_what_cannot_be_cut_is_refused_before_anything_is_written(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="query heads do not divide"):
        write_shards(files_of("qwen2"), out, 3)
    with pytest.raises(ParallelError, match="pipeline stages"):
        write_shards(files_of("qwen2"), out, 2, 9)
    with pytest.raises(CheckpointError, match="random weights"):
        write_shards(open_model(resolve_model("random:tiny")), out, 2)
    assert list(tmp_path.iterdir()) == []


# -- Shards that do not fit ---------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path) -> Path:
    """Four shards of two stages, for a test to damage."""
    write_shards(files_of("qwen2"), tmp_path / "out", 2, 2)
    return tmp_path / "out"


def name(rank: int) -> str:
    return f"model-rank-{rank:02}-of-04.safetensors"


def refused(directory: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_model(directory)
    for word in words:
        assert word in caught.value.cause
    assert caught.value.remedy


def test_a_missing_shard_is_named(shards):
    (shards / name(2)).unlink()
    refused(shards, "speaks of 4 shards", f"{name(2)} is missing")


def test_a_damaged_shard_is_named(shards):
    data = (shards / name(1)).read_bytes()
    (shards / name(1)).write_bytes(data[:-5])
    refused(shards, name(1), "cannot be read", f"should have {len(data)} bytes")


def test_shards_that_changed_places_are_told_apart(shards):
    """They have the same tensors, of the same shapes."""
    first, second = (shards / name(rank) for rank in (0, 1))
    first.rename(shards / "kept")
    second.rename(first)
    (shards / "kept").rename(second)
    refused(shards, f"{name(0)} was written as {name(1)}")


def test_a_file_that_somebody_else_wrote_is_no_shard(shards):
    save_file(load_file(shards / name(3)), shards / name(3))
    refused(shards, f"{name(3)} is no shard of ours")


def test_shards_of_another_split_under_these_names_are_found(shards, tmp_path):
    write_shards(files_of("qwen2"), tmp_path / "other", 4)
    for rank in range(4):
        shutil.copy(tmp_path / "other" / name(rank), shards / name(rank))
    refused(shards, name(0), "and should hold it")


def test_a_tensor_too_few_or_in_another_format_is_named(shards):
    def rewrite(rank, change):
        tensors = load_file(shards / name(rank))
        change(tensors)
        save_file(tensors, shards / name(rank), {"shard": name(rank)})

    norm = "model.layers.0.input_layernorm.weight"
    rewrite(1, lambda tensors: tensors.update({norm: tensors[norm].astype(np.float32)}))
    refused(shards, name(1), norm, "as F32, and another shard as BF16")
    rewrite(1, lambda tensors: tensors.pop(norm))
    refused(shards, name(1), f"holds {norm} not at all and should hold it as [16]")
    rewrite(1, lambda tensors: tensors.update({norm: np.zeros(16, np.float16), "more": np.ones(2)}))
    refused(shards, name(1), "holds more as [2] and should hold it not")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"tensor_parallel": 0}, "tensor_parallel=0"),
        ({"tensor_parallel": True}, "tensor_parallel=True"),
        ({"tensor_parallel": "2"}, "tensor_parallel='2'"),
        ({"tensor_parallel": 3}, "its 4 query heads do not divide"),
        ({"stages": [1]}, "stages=[1]"),
        ({"stages": [3, -1]}, "stages=[3, -1]"),
        ({"stages": 2}, "stages=2"),
        ({"layout": "rows"}, "layout='rows'"),
        ({"layout": ["gather"]}, "layout=['gather']"),
    ],
)
def test_a_split_that_says_nothing_sensible_is_refused(shards, changes, word):
    path = shards / "split.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(shards, "split.json", word)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}'])
def test_a_split_that_is_no_json_object_is_refused(shards, text):
    (shards / "split.json").write_text(text)
    refused(shards, "split.json")


def test_shards_without_a_configuration_are_refused(shards):
    (shards / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json"):
        open_model(shards)


def test_fixtures_are_whole():
    """Else the tests above would compare shards with shards."""
    assert not list(FIXTURES.glob("*/split.json"))
