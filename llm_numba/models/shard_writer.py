"""Writing a checkpoint in shards: tensor by tensor, all of it or nothing."""

import contextlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_numba.errors import CheckpointError
from llm_numba.models.checkpoint import Checkpoint, Progress
from llm_numba.models.loading import ModelFiles
from llm_numba.models.random import RandomCheckpoint
from llm_numba.models.reading import TensorReader
from llm_numba.models.shards import SHARD_KEY, SPLIT_FILE, Split
from llm_numba.models.shares import layer_weights
from llm_numba.models.split import Window, check_division, stacked_shape, windows_of
from llm_numba.parallel import balanced_stages

# What an engine reads of a directory, besides weights.
_BESIDES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_ALIGNMENT = 8


def write_shards(
    files: ModelFiles,
    directory: Path,
    tensor_parallel: int,
    num_stages: int = 1,
    layout: str = "megatron",
    progress: Progress | None = None,
) -> list[Path]:
    """Write a checkpoint with a file for each rank.

    Parameters
    ----------
    files : ModelFiles
        Of a model in any number of files, shards of another split included.
    directory : Path
        Is made, and appears when it is complete. An empty one may be there.
    tensor_parallel, num_stages : int
        P and R.
    layout : {"megatron", "gather"}
    progress : callable(name, done_bytes, total_bytes), optional

    Returns
    -------
    list of Path
        The files, rank 0's first.

    Raises
    ------
    CheckpointError
        If the directory cannot be written or holds something, or the model has no files.
    ConfigError, ParallelError
        If the model cannot be divided that way.
    """
    checkpoint, config = files.checkpoint, files.config
    check_division(config, tensor_parallel, layout)
    stages = balanced_stages(layer_weights(config), num_stages)
    if isinstance(checkpoint, RandomCheckpoint):
        raise CheckpointError(
            f"{checkpoint.directory.name} is a shape with random weights, which has no files.",
            "Give a model with weights; ranks make up their part of random ones by themselves.",
        )
    split = Split(tensor_parallel, tuple(map(len, stages)), layout)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    holdings = []
    for partition in split.partitions():
        windows = windows_of(shapes, config, partition, layout)
        holdings.append({name: parts for name, parts in windows.items() if parts})
    counter = _Counter(checkpoint, holdings, progress)
    with _appearing(directory) as new:
        for rank, windows in enumerate(holdings):
            _write_file(new / split.file_name(rank), checkpoint, windows, counter)
        for name in _BESIDES:
            if (checkpoint.directory / name).exists():
                shutil.copyfile(checkpoint.directory / name, new / name)
        (new / SPLIT_FILE).write_text(json.dumps(split.to_json(), indent=2) + "\n")
    return [directory / split.file_name(rank) for rank in range(split.num_ranks)]


class _Counter:
    """Counts bytes of all files together."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        holdings: list[dict[str, tuple[Window, ...]]],
        progress: Progress | None,
    ) -> None:
        self._progress = progress
        self._done = 0
        self._total = sum(
            math.prod(stacked_shape(parts)) * checkpoint.tensors[name].itemsize
            for windows in holdings
            for name, parts in windows.items()
        )

    def add(self, name: str, num_bytes: int) -> None:
        self._done += num_bytes
        if self._progress:
            self._progress(name, self._done, self._total)


@contextlib.contextmanager
def _appearing(directory: Path) -> Iterator[Path]:
    """Give a directory to fill, which takes its name when it is complete."""
    try:
        # An empty directory gives way to a rename.
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CheckpointError(
                f"{directory} exists already, and is no empty directory.",
                "Give another directory, or remove it first.",
            )
        directory.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            new.chmod(0o755)
            yield new
            new.rename(directory)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as failure:
        raise CheckpointError(
            f"{directory} cannot be written: {failure.strerror}.",
            "Make room, or give a directory in a place where you may write.",
        ) from None


def _write_file(
    path: Path,
    checkpoint: Checkpoint,
    windows: dict[str, tuple[Window, ...]],
    counter: _Counter,
) -> None:
    """Write a safetensors file, one tensor in memory at a time."""
    infos = checkpoint.tensors
    # Wide numbers first, so that each begins at a multiple of its size.
    names = sorted(windows, key=lambda name: (-infos[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {SHARD_KEY: path.name}}
    end = 0
    for name in names:
        shape = stacked_shape(windows[name])
        begin, end = end, end + math.prod(shape) * infos[name].itemsize
        header[name] = {
            "dtype": infos[name].storage,
            "shape": shape,
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    read = TensorReader(checkpoint)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            pieces = [read(name, window) for window in windows[name]]
            whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)
            file.write(np.ascontiguousarray(whole).reshape(-1).view(np.uint8))
            counter.add(name, whole.nbytes)
