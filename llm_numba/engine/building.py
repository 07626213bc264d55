"""What runs the steps, made: its memory planned, its cache allocated, its weights read.

On several ranks each does this for its own part of the model. They agree on one thing, the number
of blocks: a block has a number and a place on all of them, so the rank with the least room decides.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from llm_numba.engine import faults
from llm_numba.engine.memory import MemoryOptions, MemoryPlan, Part, plan_memory
from llm_numba.engine.mesh_runner import LeadingKVCache, MeshRunner
from llm_numba.engine.runner import ModelRunner
from llm_numba.engine.stage import Stage
from llm_numba.engine.tensor_runner import TensorRunner
from llm_numba.errors import LLMNumbaError, ParallelError
from llm_numba.kvcache import PagedKVCache, gib
from llm_numba.models import (
    Decoder,
    Execution,
    ModelConfig,
    load_model,
    rank_config,
    split_model,
)
from llm_numba.models.checkpoint import Progress
from llm_numba.models.loading import ModelFiles
from llm_numba.parallel import Mesh
from llm_numba.runtime import resolve_device
from llm_numba.runtime.device import Device


@dataclass(frozen=True)
class RunnerOptions:
    """How steps are run; see :class:`llm_numba.LLM`.

    Attributes
    ----------
    identity : str or None
        Of the model, for the prefix cache; None switches that off.
    enforce_eager, persistent : bool
    execution : Execution or None
    """

    identity: str | None
    enforce_eager: bool
    persistent: bool
    execution: Execution | None


def build(
    files: ModelFiles,
    dtype: np.dtype,
    device: str,
    memory_options: MemoryOptions,
    options: RunnerOptions,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
) -> tuple[ModelRunner | MeshRunner | Stage, MemoryPlan]:
    """Load a model, or this rank's part of it.

    Parameters
    ----------
    files : ModelFiles
    dtype : dtype
    device : {"cpu", "cuda", "sim"}
    memory_options : MemoryOptions
    options : RunnerOptions
    progress : callable(name, done_bytes, total_bytes), optional
    mesh : Mesh, optional
        Of all ranks; all else is the same on each.

    Returns
    -------
    ModelRunner, MeshRunner or Stage
        What runs steps; of several ranks, on rank 0 what submits them, elsewhere what takes part.
    MemoryPlan
        Of this rank, with the blocks of the rank that has the least room.

    Raises
    ------
    LLMNumbaError
        If the model cannot be read or run, or does not fit: on all ranks if on one of them.
    """
    wanted = files, dtype, device, memory_options, options, progress
    if mesh is None or mesh.world.size == 1:
        return _build_alone(*wanted)
    mesh.agree({
        "the device": device,
        "the number format": str(dtype),
        "the model": files.config,
        "the weights": files.checkpoint.digest(),
    })  # fmt: skip
    mesh.connect(device)
    kind = LeadingKVCache if mesh.is_leader else PagedKVCache
    model, kv_cache, memory = _load_part(mesh, kind, *wanted)
    if _queues(device) and mesh.num_stages == 1:
        made = TensorRunner
    else:
        made = MeshRunner if mesh.is_leader else Stage
    sizes = memory_options.max_num_seqs, memory_options.max_model_len
    return made(mesh, model, kv_cache, *sizes, options.enforce_eager), memory


def _queues(device: str) -> bool:
    """Whether steps of a device are queued, and not computed at once."""
    return device == "cuda"


def _build_alone(
    files: ModelFiles,
    dtype: np.dtype,
    device: str,
    memory_options: MemoryOptions,
    options: RunnerOptions,
    progress: Progress | None,
) -> tuple[ModelRunner, MemoryPlan]:
    memory = plan_memory(files.config, dtype, device, memory_options)
    length = memory_options.max_model_len
    # Planned for; but another program may have taken memory since.
    with faults.reported(f"weights, KV cache and activations of {gib(memory.taken)}"):
        kv_cache = PagedKVCache(
            *_cache_shape(files.config, memory, memory_options), dtype, device, options.identity
        )
        model = load_model(files, dtype, length, progress, device, options.execution)
    runner = ModelRunner(
        model,
        kv_cache,
        memory_options.max_num_seqs,
        length,
        options.enforce_eager,
        options.persistent,
        memory_options.max_num_batched_tokens,
    )
    return runner, memory


def _load_part(
    mesh: Mesh,
    kind: type[PagedKVCache],
    files: ModelFiles,
    dtype: np.dtype,
    device: str,
    memory_options: MemoryOptions,
    options: RunnerOptions,
    progress: Progress | None,
) -> tuple[Decoder, PagedKVCache, MemoryPlan]:
    _check_options(options)
    with raised_together(mesh):
        partition = split_model(files.config, mesh.tensor, mesh.stage, mesh.num_stages)
        part = Part(partition, mesh.ranks_on_host)
        memory = plan_memory(files.config, dtype, device, memory_options, part=part)
    memory = replace(memory, num_blocks=min(mesh.world.exchange(memory.num_blocks)))
    with raised_together(mesh), faults.reported(f"weights and KV cache of {gib(memory.taken)}"):
        config = rank_config(files.config, partition)
        shape = _cache_shape(config, memory, memory_options)
        kv_cache = kind(*shape, dtype, device, options.identity)
        length, execution = memory_options.max_model_len, options.execution
        model = load_model(files, dtype, length, progress, device, execution, partition)
    return model, kv_cache, memory


def _cache_shape(
    config: ModelConfig, memory: MemoryPlan, options: MemoryOptions
) -> tuple[int, int, int, int, int]:
    blocks = memory.num_blocks, options.block_size
    return config.num_layers, *blocks, config.num_kv_heads, config.head_dim


def device_of(wanted: str, mesh: Mesh | None) -> Device:
    """Turn a user's choice of device into one that exists here; of several ranks, each its own.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda", "sim"}
    mesh : Mesh, optional

    Returns
    -------
    {"cpu", "cuda", "sim"}

    Raises
    ------
    DeviceError, ParallelError
        If it cannot be had on this machine, or not for each rank.
    """
    if mesh is not None and mesh.world.size > 1 and wanted in ("auto", "cuda"):
        mesh.take_gpu()
    return resolve_device(wanted)


def _check_options(options: RunnerOptions) -> None:
    if options.persistent:
        raise ParallelError(
            "The persistent runner decodes in one kernel, which cannot wait for other ranks.",
            "Leave persistent=True (--persistent) away.",
        )


@contextlib.contextmanager
def raised_together(mesh: Mesh) -> Iterator[None]:
    """Raise a user's mistake on all ranks if it was found on one.

    Parameters
    ----------
    mesh : Mesh

    Raises
    ------
    LLMNumbaError
        Of the first rank that has one.
    """
    found = None
    try:
        yield
    except LLMNumbaError as error:
        found = error
    # Some read more than others, and rank 0 may have waited for a user before.
    for error in mesh.world.exchange(found, patient=True):
        if error is not None:
            raise error
