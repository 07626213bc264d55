"""Models in parts: what the tests of split models share."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_numba.kvcache import PagedKVCache
from llm_numba.models import (
    Decoder,
    Execution,
    ForwardBatch,
    load_model,
    open_model,
    split_model,
)
from llm_numba.models.loading import ModelFiles
from llm_numba.parallel import Communicator, Partition, run_ranks
from llm_numba.runtime import Array, to_host, upload

FIXTURES = Path(__file__).parents[1] / "golden" / "fixtures"
LENGTH, BLOCK_SIZE = 40, 4
LAYOUTS = ("megatron", "gather")

GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 4,
    "vocab_size": 37,
    "n_positions": LENGTH,
}


def tolerance(dtype: str) -> float:
    """How far logits may be from those of the whole model, in parts of the largest.

    Only closing products add in another order, 4 of them in two layers, some 50 numbers each: 200
    units of rounding. Norms and attention may multiply them by a few. A wrong shard moves logits
    by tenths.
    """
    return 1000 * float(np.finfo(dtype).eps)


@functools.cache
def files_of(name: str) -> ModelFiles:
    return open_model(FIXTURES / name)


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(32, size=count).tolist()


class Reader:
    """One sequence in a cache of its own, read piece by piece; a stage passes on what it makes."""

    def __init__(self, model: Decoder, device: str = "cpu") -> None:
        config = model.config
        heads = (config.num_kv_heads, config.head_dim)
        self.model = model
        self.cache = PagedKVCache(
            config.num_layers, 16, BLOCK_SIZE, *heads, model.anchor.dtype, device
        )
        self.table = self.cache.new_table()

    def read(self, piece: list[int], hidden: Array | None = None) -> Array:
        """Return the residual stream behind the next tokens."""
        begin = self.table.num_tokens
        slots = self.table.append_slots(len(piece))
        positions = range(begin, begin + len(piece))
        lists = (piece, positions, slots, [self.table.blocks], [0, len(piece)], [positions.stop])
        arrays = [np.asarray(values, np.int32) for values in lists]
        batch = ForwardBatch(*upload(arrays, like=self.model.anchor))
        return self.model.forward(batch, self.cache, hidden)


PIECES = (tokens(9), tokens(1, 1), tokens(2, 2))


def scored(
    model: Decoder, pieces: Sequence[list[int]] = PIECES, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and best tokens of a prompt, and of pieces more that see it in the cache."""
    reader = Reader(model, device)
    streams = [reader.read(piece) for piece in pieces]
    logits, best = (
        np.concatenate([to_host(score(r)) for r in streams])
        for score in (model.logits, model.argmax)
    )
    return logits, best


def load(files: ModelFiles, dtype: str = "float64", **options: Any) -> Decoder:
    return load_model(files, np.dtype(dtype), LENGTH, **options)


def in_parts(
    files: ModelFiles,
    ranks: int,
    function: Callable[[Decoder], Any],
    dtype: str = "float64",
    layout: str = "megatron",
    **options: Any,
) -> list[Any]:
    """Load a model on tensor-parallel ranks, and return what a function makes of each part."""
    options.setdefault("execution", Execution(tensor_layout=layout))

    def run(tensor: Communicator) -> Any:
        partition = split_model(files.config, tensor)
        return function(load(files, dtype, partition=partition, **options))

    return run_ranks(ranks, run)


def write_shape(directory: Path, config: dict[str, Any], monkeypatch: Any) -> ModelFiles:
    """Open a model of a shape with random weights."""
    shape = directory / "shapes" / "made-up"
    shape.mkdir(parents=True)
    (shape / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("llm_numba.models.loading.SHAPES_DIR", shape.parent)
    return open_model(shape)


def weights_of(model: Decoder) -> Iterator[tuple[str, Array]]:
    """Give each array of a model a name."""

    def walk(name: str, value: Any) -> Iterator[tuple[str, Array]]:
        if hasattr(value, "dtype"):
            yield name, value
        elif isinstance(value, list):
            for i, each in enumerate(value):
                yield from walk(f"{name}.{i}", each)
        elif hasattr(value, "__dataclass_fields__") and not isinstance(value, Partition):
            for field in value.__dataclass_fields__:
                yield from walk(f"{name}.{field}", getattr(value, field))

    for name, value in vars(model).items():
        if name not in ("config", "execution", "partition", "cos", "sin"):
            yield from walk(name, value)
