"""Writers of checkpoint files, sound and damaged."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

# What several modules of tests share: `splitting`.
sys.path.insert(0, str(Path(__file__).parent))

Tensors = dict[str, np.ndarray]


@pytest.fixture
def save_sharded() -> Callable[[Path, list[Tensors]], None]:
    """Write shards with the index that Transformers writes."""

    def save(directory: Path, shards: list[Tensors]) -> None:
        weight_map = {}
        for number, tensors in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            save_file(tensors, directory / name)
            weight_map |= dict.fromkeys(tensors, name)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    return save


@pytest.fixture
def write_raw() -> Callable[..., Path]:
    """Write a safetensors file byte by byte: length of the header, header, data."""

    def write(directory: Path, header: bytes | dict, data: bytes = b"") -> Path:
        header = json.dumps(header).encode() if isinstance(header, dict) else header
        path = directory / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)
        return path

    return write
