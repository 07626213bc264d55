"""Damaged checkpoints that must not end in a traceback of Python's."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_numba import LLM
from llm_numba.errors import CheckpointError
from llm_numba.models import Checkpoint


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["x", "y"]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [null, null]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "y"]},'
        b' "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    ],
    ids=["nested without end", "one offset", "offsets as text", "null offsets", "mixed offsets"],
)
def test_a_header_that_makes_no_sense_is_no_traceback(tiny_checkpoint, write_raw, header):
    directory = tiny_checkpoint()
    path = write_raw(directory, header)
    with pytest.raises(CheckpointError) as caught:
        LLM(directory)
    assert caught.value.cause.startswith(f"{path} cannot be read: ")


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_file_too_short_for_the_length_of_its_header_claims_no_length(tiny_checkpoint, size):
    path = tiny_checkpoint() / "model.safetensors"
    path.write_bytes(b"abcdefg"[:size])
    with pytest.raises(CheckpointError) as caught:
        LLM(path.parent)
    claimed = 8 + int.from_bytes(b"abcdefg"[:size], "little")
    assert f"{size} bytes" in caught.value.cause
    assert str(claimed) not in caught.value.cause


def test_a_shard_of_an_impossible_name_is_named(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "model.safetensors").unlink()
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "x" * 300}}))
    with pytest.raises(CheckpointError, match=r"index\.json names"):
        Checkpoint(directory)


def test_a_directory_in_the_place_of_the_weights_is_called_one(tiny_checkpoint):
    path = tiny_checkpoint() / "model.safetensors"
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="directory"):
        LLM(path.parent)


def test_progress_reaches_the_total_where_tensors_are_left_aside(tiny_checkpoint):
    directory = tiny_checkpoint()
    path = directory / "model.safetensors"
    tied = np.zeros((272, 32), np.float32)
    save_file(load_file(path) | {"lm_head.weight": tied}, path)
    calls = []
    LLM(directory, progress=lambda *call: calls.append(call))
    _, done, total = calls[-1]
    assert done == total
