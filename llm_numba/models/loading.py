"""From a name or a path to a model that can run."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_numba.errors import ModelNotFoundError
from llm_numba.models.checkpoint import Checkpoint, Progress
from llm_numba.models.config import ModelConfig
from llm_numba.models.decoder import Decoder
from llm_numba.models.execution import Execution
from llm_numba.models.families import load_config
from llm_numba.models.gpt2 import GPT2Model, gpt2_ignores, gpt2_tensors
from llm_numba.models.llama import LlamaModel, llama_ignores, llama_tensors
from llm_numba.models.random import PREFIX, SHAPES_DIR, RandomCheckpoint, resolve_shape
from llm_numba.models.shards import SPLIT_FILE, ShardedCheckpoint
from llm_numba.models.split import check_division, windows_of
from llm_numba.models.weights import FileWeights, RandomWeights, WeightLoader
from llm_numba.parallel import Partition

BUNDLED_DIR = Path(__file__).parent / "bundled"


def bundled_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED_DIR.glob("*/config.json"))


def resolve_model(name: str | Path) -> Path:
    """Find the directory of a model.

    Parameters
    ----------
    name : str or Path
        A bundled model's name, a directory in Hugging Face layout, a hub id ("owner/name"),
        which is downloaded unless it is in the local hub cache, or "random:" and a shape's name.

    Returns
    -------
    Path

    Raises
    ------
    ModelNotFoundError
        If there is no such model, or the hub cannot be reached.
    """
    if isinstance(name, str) and name.startswith(PREFIX):
        return resolve_shape(name.removeprefix(PREFIX))
    bundled = bundled_models()
    if str(name) in bundled:
        return BUNDLED_DIR / str(name)
    path = Path(os.path.expanduser(name))
    if not str(name):
        raise ModelNotFoundError("The model's name is empty.", "Give a name or a directory.")
    # os.path, because Path's methods raise where a parent directory may not be searched.
    if os.path.isdir(path):
        return path
    if os.path.exists(path):
        raise ModelNotFoundError(
            f"{path} is a file, not a directory.",
            "Point to the directory that holds config.json, the weights and tokenizer.json.",
        )
    if isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~":
        return _download(name)
    raise ModelNotFoundError(
        f"There is no model {str(name)!r}: no such directory, and not bundled.",
        f"Bundled: {', '.join(bundled)}; or give a directory in Hugging Face layout, a hub id "
        "like 'owner/name', or a shape for random weights like 'random:gpt2'.",
    )


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ModelNotFoundError(
            f"There is no directory {hub_id!r}, and models of the hub need huggingface_hub.",
            "Run: pip install 'llm-numba[hub]'.",
        ) from None
    try:
        return Path(
            snapshot_download(
                hub_id,
                allow_patterns=["*.safetensors", "*.json", "*.jinja"],
                ignore_patterns=["*/*", "consolidated*"],  # the same weights in other layouts
            )
        )
    except Exception as failure:  # the hub's client raises whatever its network stack raises
        reason = str(failure).strip().splitlines()
        raise ModelNotFoundError(
            f"There is no directory {hub_id!r}, and the hub gave no such model: "
            f"{reason[0] if reason else type(failure).__name__}",
            "Check the name and the network, or give a local directory.",
        ) from None


@dataclass(frozen=True)
class ModelFiles:
    """A checkpoint directory, read as far as its headers and found sound.

    Attributes
    ----------
    config : ModelConfig
    checkpoint : Checkpoint
    build : callable(WeightLoader, num_positions, Execution, Partition) -> Decoder
    """

    config: ModelConfig
    checkpoint: Checkpoint
    build: Callable[[WeightLoader, int, Execution, Partition], Decoder]


def open_checkpoint(directory: Path) -> Checkpoint:
    """Read the headers of a checkpoint; where a directory is only a shape, make them up.

    Parameters
    ----------
    directory : Path

    Returns
    -------
    Checkpoint

    Raises
    ------
    ConfigError
        If a shape or shards lack a sound ``config.json``.
    CheckpointError
        If files are missing or damaged.
    """
    if directory.parent == SHAPES_DIR:
        return RandomCheckpoint(directory)
    return (ShardedCheckpoint if (directory / SPLIT_FILE).exists() else Checkpoint)(directory)


def open_model(directory: Path) -> ModelFiles:
    """Read the configuration and the headers of a checkpoint and hold them against each other.

    Parameters
    ----------
    directory : Path

    Returns
    -------
    ModelFiles

    Raises
    ------
    ConfigError, CheckpointError
        If files are missing or damaged, not supported, or do not fit each other.
    """
    config = load_config(directory)
    checkpoint = open_checkpoint(directory)
    if config.architecture == "GPT2LMHeadModel":
        prefix = "transformer." if "transformer.wte.weight" in checkpoint.tensors else ""
        checkpoint.validate(gpt2_tensors(config, prefix), gpt2_ignores)
        return ModelFiles(
            config,
            checkpoint,
            lambda load, num_positions, *more: GPT2Model(config, load, prefix, *more),
        )
    checkpoint.validate(llama_tensors(config), llama_ignores)
    return ModelFiles(config, checkpoint, functools.partial(LlamaModel, config))


def load_model(
    files: ModelFiles,
    dtype: np.dtype,
    num_positions: int,
    progress: Progress | None = None,
    device: str = "cpu",
    execution: Execution | None = None,
    partition: Partition | None = None,
) -> Decoder:
    """Read the weights, or make them up: all, or those that a rank holds.

    Parameters
    ----------
    files : ModelFiles
    dtype : dtype
        The format to compute in.
    num_positions : int
        The longest context that will be asked for.
    progress : callable(name, done_bytes, total_bytes), optional
    device : {"cpu", "cuda", "sim"}
        Where the weights go.
    execution : Execution, optional
        How the model runs; by default with everything fused.

    partition : Partition, optional
        What this rank holds, see :func:`llm_numba.models.split_model`; by default everything.

    Returns
    -------
    Decoder

    Raises
    ------
    ConfigError
        If the model cannot be divided that way.
    """
    execution = execution or Execution()
    partition = partition or Partition.whole(files.config)
    check_division(files.config, partition.tensor.size, execution.tensor_layout)
    shapes = {name: info.shape for name, info in files.checkpoint.tensors.items()}
    windows = windows_of(shapes, files.config, partition, execution.tensor_layout)
    loader = RandomWeights if isinstance(files.checkpoint, RandomCheckpoint) else FileWeights
    with loader(files.checkpoint, dtype, progress, device, windows) as load:
        return files.build(load, num_positions, execution, partition)
