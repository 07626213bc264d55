"""Checkpoints that cannot be used: the error names the file, the tensors and the byte counts."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_numba import LLM
from llm_numba.errors import CheckpointError
from llm_numba.models import Checkpoint, open_model


def refusal(directory: Path) -> CheckpointError:
    """What `LLM` says of the directory, in two sentences."""
    with pytest.raises(CheckpointError) as caught:
        LLM(directory)
    assert caught.value.cause.endswith(".")
    assert caught.value.remedy.endswith(".")
    return caught.value


def write_index(directory: Path, weight_map: object) -> Path:
    """Turn a single file into a first shard; beside a single file an index is not looked at."""
    (directory / "model.safetensors").rename(directory / "first.safetensors")
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return path


# -- Missing files and damaged bytes ----------------------------------------------------------


def test_a_directory_without_weights_says_which_files_it_looked_for(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "model.safetensors").unlink()
    error = refusal(directory)
    assert f"{directory} holds neither model.safetensors nor model.safetensors.index.json" in (
        error.cause
    )


@pytest.mark.parametrize("kept", ["all but one byte", "half of the data", "only the header"])
def test_a_file_cut_off_in_its_data_names_both_byte_counts(tiny_checkpoint, kept):
    path = tiny_checkpoint() / "model.safetensors"
    content = path.read_bytes()
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    size = {
        "all but one byte": len(content) - 1,
        "half of the data": (header_end + len(content)) // 2,
        "only the header": header_end,
    }[kept]
    path.write_bytes(content[:size])
    error = refusal(path.parent)
    assert error.cause == (
        f"{path} cannot be read: it should have {len(content)} bytes and has {size}."
    )


def test_a_file_with_bytes_behind_its_data_names_both_byte_counts(tiny_checkpoint):
    path = tiny_checkpoint() / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content + b"123")
    size = len(content)
    assert f"it should have {size} bytes and has {size + 3}." in refusal(path.parent).cause


def test_a_file_cut_off_in_its_header_names_both_byte_counts(tiny_checkpoint):
    path = tiny_checkpoint() / "model.safetensors"
    content = path.read_bytes()
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    path.write_bytes(content[:100])
    assert f"its header should end at byte {header_end}, the file has 100 bytes." in (
        refusal(path.parent).cause
    )


def test_an_empty_file_is_told_apart(tiny_checkpoint):
    path = tiny_checkpoint() / "model.safetensors"
    path.write_bytes(b"")
    error = refusal(path.parent)
    assert error.cause.startswith(f"{path} cannot be read: ")
    assert "the file has 0 bytes" in error.cause


def test_a_header_longer_than_the_file_names_both_byte_counts(tiny_checkpoint):
    path = tiny_checkpoint() / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    assert f"its header should end at byte {2**63 + 8}, the file has 10 bytes." in (
        refusal(path.parent).cause
    )


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"garbage",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "NEW", "shape": [0], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    ],
    ids=[
        "empty",
        "no JSON",
        "no UTF-8",
        "no object",
        "no entry",
        "no offsets",
        "unknown format",
        "offsets backwards",
    ],
)
def test_a_header_that_makes_no_sense_names_the_file(tiny_checkpoint, write_raw, header):
    directory = tiny_checkpoint()
    path = write_raw(directory, header)
    assert refusal(directory).cause.startswith(f"{path} cannot be read: ")


def test_nobody_waits_for_weights_out_of_a_pipe(tiny_checkpoint):
    directory = tiny_checkpoint()
    path = directory / "model.safetensors"
    path.unlink()
    os.mkfifo(path)
    assert refusal(directory).cause == f"{path} is no file but a pipe or a device."


def test_two_tensors_in_the_same_place_are_refused(tiny_checkpoint, write_raw):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    directory = tiny_checkpoint()
    write_raw(directory, {"a": entry, "b": entry}, b"1234")
    assert "cannot be read: " in refusal(directory).cause


def test_garbage_of_any_kind_never_gets_further_than_the_error(tiny_checkpoint):
    directory = tiny_checkpoint()
    rng = np.random.default_rng(0)
    for size in [1, 7, 8, 9, 100, 1000]:
        (directory / "model.safetensors").write_bytes(rng.bytes(size))
        assert f"the file has {size} bytes" in refusal(directory).cause


# -- Tensors that do not fit the configuration ------------------------------------------------


def edit(directory: Path, **tensors: np.ndarray | None) -> None:
    """Set tensors of a checkpoint, or remove them with None."""
    path = directory / "model.safetensors"
    content = load_file(path) | {name.replace("__", "."): t for name, t in tensors.items()}
    save_file({name: t for name, t in content.items() if t is not None}, path)


def test_missing_tensors_are_named(tiny_checkpoint):
    directory = tiny_checkpoint()
    edit(directory, model__norm__weight=None, model__layers__1__mlp__up_proj__weight=None)
    cause = refusal(directory).cause
    assert "missing: model.norm.weight, model.layers.1.mlp.up_proj.weight." in cause
    assert str(directory) in cause


def test_extra_tensors_are_named(tiny_checkpoint):
    directory = tiny_checkpoint()
    edit(directory, model__layers__0__self_attn__q_proj__bias=np.zeros(32, np.float32))
    assert "not part of the model: model.layers.0.self_attn.q_proj.bias" in (
        refusal(directory).cause
    )


def test_a_misshapen_tensor_is_named_with_both_shapes(tiny_checkpoint):
    directory = tiny_checkpoint()
    edit(directory, model__embed_tokens__weight=np.zeros((271, 32), np.float32))
    assert (
        "of the wrong shape: model.embed_tokens.weight is [271, 32] and should be [272, 32]"
        in refusal(directory).cause
    )


@pytest.mark.parametrize(
    ("dtype", "storage"), [(np.int64, "I64"), (np.uint8, "U8"), (bool, "BOOL")]
)
def test_a_tensor_in_a_format_that_is_not_read_is_named_with_it(tiny_checkpoint, dtype, storage):
    directory = tiny_checkpoint()
    edit(directory, model__norm__weight=np.zeros(32, dtype))
    assert f"in a format other than F64, F32, F16, BF16: model.norm.weight is {storage}" in (
        refusal(directory).cause
    )


def test_eight_bit_floats_are_refused_by_name(tiny_checkpoint, write_raw):
    directory = tiny_checkpoint()
    entry = {"dtype": "F8_E4M3", "shape": [32], "data_offsets": [0, 32]}
    write_raw(directory, {"model.norm.weight": entry}, bytes(32))
    assert "model.norm.weight is F8_E4M3" in refusal(directory).cause


def test_all_kinds_of_problems_are_reported_at_once(tiny_checkpoint):
    directory = tiny_checkpoint()
    edit(
        directory,
        model__norm__weight=None,
        stranger=np.zeros(1, np.float32),
        model__embed_tokens__weight=np.zeros((1, 1), np.float32),
    )
    cause = refusal(directory).cause
    for part in ("missing: ", "not part of the model: stranger", "of the wrong shape: "):
        assert part in cause


def test_of_many_tensors_five_are_named_and_the_others_counted(tiny_checkpoint):
    directory = tiny_checkpoint(num_hidden_layers=1)
    (directory / "config.json").write_text(
        (directory / "config.json")
        .read_text()
        .replace('"num_hidden_layers": 1', '"num_hidden_layers": 3')
    )
    cause = refusal(directory).cause
    assert cause.count("model.layers.1") == 5
    assert "and 13 more." in cause


def test_an_untied_model_needs_its_lm_head(tiny_checkpoint):
    directory = tiny_checkpoint(tie_word_embeddings=False)
    edit(directory, lm_head__weight=None)
    assert "missing: lm_head.weight." in refusal(directory).cause


def test_beside_a_single_file_an_index_is_not_looked_at(tiny_checkpoint):
    directory = tiny_checkpoint()
    tensors = Checkpoint(directory).tensors
    (directory / "model.safetensors.index.json").write_text("{")
    assert Checkpoint(directory).tensors == tensors


# -- An index is untrusted --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/shard.safetensors", "..", ".", ""]
)
def test_an_index_cannot_lead_out_of_its_directory(tiny_checkpoint, tmp_path: Path, name):
    directory = tiny_checkpoint()
    (directory / "sub").mkdir()
    for place in (tmp_path / "outside.safetensors", directory / "sub" / "shard.safetensors"):
        shutil.copy(directory / "model.safetensors", place)
    path = write_index(directory, {"model.norm.weight": name})
    error = refusal(directory)
    assert error.cause == f"{path} names {name!r}, which is not a file of its own directory."


def test_a_missing_shard_is_named(tiny_checkpoint):
    directory = tiny_checkpoint()
    path = write_index(
        directory, {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    )
    assert refusal(directory).cause == (
        f"{path} names model-00002-of-00002.safetensors, which is missing."
    )


def test_a_damaged_shard_is_named(tiny_checkpoint):
    directory = tiny_checkpoint()
    write_index(directory, {"a": "first.safetensors", "b": "second.safetensors"})
    (directory / "second.safetensors").write_bytes(b"")
    assert str(directory / "second.safetensors") in refusal(directory).cause


@pytest.mark.parametrize("weight_map", [None, {}, [], "model.safetensors"])
def test_an_index_without_a_weight_map_is_named(tiny_checkpoint, weight_map):
    directory = tiny_checkpoint()
    path = write_index(directory, weight_map)
    assert refusal(directory).cause == f"{path} has no 'weight_map'."


def test_an_index_that_is_no_json_is_named(tiny_checkpoint):
    directory = tiny_checkpoint()
    path = write_index(directory, {})
    path.write_text("{")
    assert refusal(directory).cause.startswith(f"{path} is not valid JSON")


def test_a_tensor_that_the_index_has_and_its_shard_lacks_is_missing(tiny_checkpoint, save_sharded):
    directory = tiny_checkpoint()
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    name = "model.norm.weight"
    others = {n: t for n, t in tensors.items() if n != name}
    save_sharded(directory, [others, {"other": tensors[name]}])
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][name] = index["weight_map"].pop("other")
    path.write_text(json.dumps(index))
    assert f"missing: {name}" in refusal(directory).cause


# -- Pickles ----------------------------------------------------------------------------------


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_never_loaded_whatever_its_name(tiny_checkpoint, tmp_path: Path, name):
    directory, sprung = tiny_checkpoint(), tmp_path / "sprung"
    (directory / "model.safetensors").unlink()
    trap = pickle.dumps(Trap(sprung))
    (directory / name).write_bytes(trap)
    error = refusal(directory)
    assert name in error.cause
    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists(), "the trap works: it would have been seen"


def test_a_pickle_in_an_index_is_never_loaded(tiny_checkpoint, tmp_path: Path):
    directory, sprung = tiny_checkpoint(), tmp_path / "sprung"
    write_index(directory, {"model.norm.weight": "pytorch_model.bin"})
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    assert "pytorch_model.bin cannot be read" in refusal(directory).cause
    assert not sprung.exists()


def test_a_directory_with_only_a_pickle_says_why_it_is_not_read(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    error = refusal(directory)
    assert "only pytorch_model.bin, whose pickle format can run code" in error.cause
    assert "safe_serialization=True" in error.remedy


def test_headers_alone_decide_whether_a_checkpoint_fits(tiny_checkpoint):
    """`open_model` finds the faults above without reading a single weight."""
    directory = tiny_checkpoint()
    edit(directory, model__norm__weight=None)
    Checkpoint(directory)
    with pytest.raises(CheckpointError, match=r"missing: model\.norm\.weight"):
        open_model(directory)


def test_weights_without_permission_ask_for_permission(tiny_checkpoint, monkeypatch):
    # Root may read everything, so the operating system's refusal is acted out.
    directory = tiny_checkpoint()
    real_open = Path.open

    def refuse(path: Path, mode: str = "r", *args: object, **options: object) -> object:
        if path.suffix == ".safetensors":
            raise PermissionError
        return real_open(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    error = refusal(directory)
    assert error.cause == f"{directory / 'model.safetensors'} may not be read."
    assert "permission" in error.remedy
