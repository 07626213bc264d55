"""Checkpoints that are cut already: a file for each rank, and a short one that says how.

::

    split.json                            how many ranks, which layers, in which layout
    model-rank-00-of-04.safetensors       stage 0, tensor rank 0: its windows of each tensor
    model-rank-01-of-04.safetensors       stage 0, tensor rank 1
    ...

A tensor goes by the name that it has in the whole model. Several windows of one lie side by side;
what several ranks hold is in each of their files. Ranks of the same split find each window in one
piece. Ranks of another find it in several, and so does a program that wants it all.
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from llm_numba.errors import CheckpointError, ConfigError
from llm_numba.models.checkpoint import Checkpoint, Source, TensorInfo, read_header, read_infos
from llm_numba.models.config import ModelConfig
from llm_numba.models.execution import LAYOUTS
from llm_numba.models.families import load_config
from llm_numba.models.fields import read_json
from llm_numba.models.split import Window, check_division, moved, stacked_shape, windows_of
from llm_numba.models.tensors import tensor_shapes
from llm_numba.parallel import Partition, Seat

SPLIT_FILE = "split.json"
VERSION = 1
# Of a file's metadata: the name that it was written with.
SHARD_KEY = "shard"


class Split(NamedTuple):
    """How a checkpoint is cut.

    Attributes
    ----------
    tensor_parallel : int
        P.
    stages : tuple of int
        The number of layers of each stage.
    layout : {"megatron", "gather"}
    """

    tensor_parallel: int
    stages: tuple[int, ...]
    layout: str

    @property
    def num_ranks(self) -> int:
        """P times R."""
        return self.tensor_parallel * len(self.stages)

    def partitions(self) -> list[Partition]:
        """Return what each rank holds, rank 0's first; tensor ranks are neighbours."""
        ends = list(itertools.accumulate(self.stages, initial=0))
        return [
            Partition(Seat(rank, self.tensor_parallel), range(begin, end), ends[-1])
            for begin, end in itertools.pairwise(ends)
            for rank in range(self.tensor_parallel)
        ]

    def file_name(self, rank: int) -> str:
        """Return the name of a rank's file.

        Parameters
        ----------
        rank : int
        """
        return f"model-rank-{rank:02}-of-{self.num_ranks:02}.safetensors"

    def to_json(self) -> dict[str, Any]:
        """Return what :func:`read_split` reads."""
        return {
            "version": VERSION,
            "tensor_parallel": self.tensor_parallel,
            "stages": list(self.stages),
            "layout": self.layout,
        }


def read_split(path: Path, config: ModelConfig) -> Split:
    """Read how a checkpoint is cut.

    Parameters
    ----------
    path : Path
        Of a ``split.json``.
    config : ModelConfig
        Of the whole model.

    Returns
    -------
    Split

    Raises
    ------
    CheckpointError
        If the file is damaged, of a later version, or does not fit the model.
    """
    raw = read_json(path, CheckpointError)
    ranks, stages, layout = (raw.get(key) for key in ("tensor_parallel", "stages", "layout"))
    if raw.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is of version {raw.get('version')!r}, and version {VERSION} can be read.",
            "Write the shards again, with the llm-numba that reads them.",
        )
    are_counts = isinstance(stages, list) and all(map(_is_count, [ranks, *stages]))
    if not are_counts or layout not in LAYOUTS or sum(stages) != config.num_layers:
        raise CheckpointError(
            f"{path} does not say how {config.num_layers} layers are cut: it has tensor_parallel="
            f"{ranks!r}, stages={stages!r}, layout={layout!r}.",
            "Write the shards again: llm-numba shard.",
        )
    try:
        check_division(config, ranks, layout)
    except ConfigError as problem:
        raise CheckpointError(
            f"{path} does not fit config.json. {problem.cause}",
            "Use the config.json that lay beside the shards.",
        ) from None
    return Split(ranks, tuple(stages), layout)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class _Piece(NamedTuple):
    """A window of a tensor, in the file of a rank behind others along the last axis."""

    info: TensorInfo
    offset: int


class ShardedCheckpoint(Checkpoint):
    """A checkpoint in shards, whole to whom reads it.

    Parameters
    ----------
    directory : Path
        With a ``split.json``.

    Attributes
    ----------
    split : Split

    Raises
    ------
    CheckpointError
        If files are missing or damaged, or do not fit each other.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        config = load_config(directory)
        self.split = read_split(directory / SPLIT_FILE, config)
        files = [self._read_shard(rank) for rank in range(self.split.num_ranks)]
        has_prefix = any(name.startswith("transformer.") for name in files[0])
        shapes = tensor_shapes(config, "transformer." if has_prefix else "")
        self.tensors: dict[str, TensorInfo] = {}
        self._pieces: dict[str, dict[Window, _Piece]] = {name: {} for name in shapes}
        for partition, found in zip(self.split.partitions(), files, strict=True):
            windows = windows_of(shapes, config, partition, self.split.layout)
            self._add(found, {name: parts for name, parts in windows.items() if parts})
        for name, shape in shapes.items():
            info = next(iter(self._pieces[name].values())).info
            self.tensors[name] = TensorInfo(info.path, shape, info.storage, info.begin)

    def _read_shard(self, rank: int) -> dict[str, TensorInfo]:
        name = self.split.file_name(rank)
        path = self.directory / name
        if not path.exists():
            raise CheckpointError(
                f"{self.directory / SPLIT_FILE} speaks of {self.split.num_ranks} shards, and {name}"
                " is missing.",
                "Copy that file here too, or write the shards again.",
            )
        infos = read_infos(path)
        # Shards of one model are alike: which one it is, it must say itself.
        written = read_header(path)[1].get("__metadata__", {}).get(SHARD_KEY)
        if written != name:
            raise CheckpointError(
                f"{path} was written as {written}." if written else f"{path} is no shard of ours.",
                "Give shards back the names that they were written with, or write them again.",
            )
        return infos

    def _add(self, found: dict[str, TensorInfo], windows: dict[str, tuple[Window, ...]]) -> None:
        """Take the pieces of a rank's file, which must be those and no others."""
        shapes = {name: stacked_shape(parts) for name, parts in windows.items()}
        if {name: info.shape for name, info in found.items()} != shapes:
            names = found.keys() | shapes.keys()
            wrong = min(n for n in names if n not in found or found[n].shape != shapes.get(n))
            what = f"as {list(found[wrong].shape)}" if wrong in found else "not at all"
            wanted = f"as {list(shapes[wrong])}" if wrong in shapes else "not"
            path = next(iter(found.values())).path if found else self.directory
            raise CheckpointError(
                f"{path} holds {wrong} {what} and should hold it {wanted}.",
                "Use shards and a split.json that were written together.",
            )
        for name, parts in windows.items():
            storages = {piece.info.storage for piece in self._pieces[name].values()}
            if storages - {found[name].storage}:
                raise CheckpointError(
                    f"{found[name].path} holds {name} as {found[name].storage}, and another shard "
                    f"as {storages.pop()}.",
                    "Use shards and a split.json that were written together.",
                )
            offset = 0
            for window in parts:
                self._pieces[name].setdefault(window, _Piece(found[name], offset))
                offset += len(window[-1])

    def sources(self, name: str, window: Window) -> list[Source]:
        """Say where a window of a tensor is stored, see :meth:`Checkpoint.sources`.

        Parameters
        ----------
        name : str
        window : Window

        Returns
        -------
        list of Source
        """
        found = []
        for stored, piece in self._pieces[name].items():
            common = [
                range(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(stored, window, strict=True)
            ]
            if all(common):
                there = [moved(r, -s.start) for r, s in zip(common, stored, strict=True)]
                there[-1] = moved(there[-1], piece.offset)
                here = (moved(r, -w.start) for r, w in zip(common, window, strict=True))
                place = tuple(slice(r.start, r.stop) for r in here)
                found.append(Source(piece.info, tuple(there), place))
        return found
