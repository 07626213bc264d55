"""The engine's memory, in bytes and before anything is loaded: what goes where, and what is left.

::

    limit = weights + activations + reserve + KV cache

Weights follow from the model's shapes. Activations are those of the largest step: a layer frees
what the one before it held, so what counts is the widest moment of one layer, or the logits. The
KV cache gets the rest. ``llm-numba doctor --model`` shows the sum.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from llm_numba.kvcache import Needs, Room, gpu_limit, gpu_num_blocks, host_num_blocks
from llm_numba.models import ModelConfig, rank_config, rank_shapes, tensor_shapes
from llm_numba.parallel import Partition
from llm_numba.runtime import available_memory, gpu_memory

# Measured on an H100: the CUDA context, and the code of the kernels that a model uses.
CONTEXT_BYTES = 530 * 2**20
CODE_BYTES = 80 * 2**20
# A pool that has served steps of all sizes holds pieces of all sizes, not all of use to the next
# step. Measured too: of the largest step it grew to 1.7 to 2.2 times.
_POOL_SLACK = 2
# A row's histogram and candidates while a token is drawn.
_SAMPLING_BYTES = 48 * 2**10
# Parts of a product's sum, one set of tiles for each SM; and the piece of a context whose partial
# attention is kept in float32.
_PARTS_BYTES = 16 * 2**20
_PIECE = 2048


@dataclass(frozen=True)
class MemoryOptions:
    """What a user may say about an engine's memory; see :class:`llm_numba.LLM`."""

    max_model_len: int
    block_size: int = 16
    num_blocks: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    gpu_memory_utilization: float | None = None
    gpu_memory_gb: float | None = None


@dataclass(frozen=True)
class Part:
    """What one of several ranks holds.

    Attributes
    ----------
    partition : Partition
    ranks_on_host : int
        So many share the main memory of its machine.
    """

    partition: Partition
    ranks_on_host: int


@dataclass(frozen=True)
class MemoryPlan:
    """Where an engine's memory goes.

    Attributes
    ----------
    needs : Needs
        Weights, activations, reserve.
    block_bytes, num_blocks : int
    device_bytes : int
        Of the card, or of main memory that is available.
    limit : int
        Bytes of it that the engine may take.
    """

    needs: Needs
    block_bytes: int
    num_blocks: int
    device_bytes: int
    limit: int

    @property
    def kv_cache(self) -> int:
        """Bytes of the blocks, the one for padding included."""
        return (self.num_blocks + 1) * self.block_bytes

    @property
    def taken(self) -> int:
        """Bytes that the engine will take."""
        return self.needs.num_bytes + self.kv_cache


def plan_memory(
    config: ModelConfig,
    dtype: np.dtype,
    device: str,
    options: MemoryOptions,
    card_bytes: int | None = None,
    part: Part | None = None,
) -> MemoryPlan:
    """Work out what an engine will take, and how many blocks its cache gets.

    Parameters
    ----------
    config : ModelConfig
    dtype : dtype
        Of weights, activations and cache.
    device : {"cpu", "cuda", "sim"}
    options : MemoryOptions
    card_bytes : int, optional
        Plan for an empty GPU of this size, whatever is in this machine.
    part : Part, optional
        What this rank holds, if it does not hold the whole model.

    Returns
    -------
    MemoryPlan

    Raises
    ------
    EngineError, CacheError
        If it does not fit: with what is needed, what there is, and what to change.
    """
    shapes = None
    if part is not None:
        shapes = rank_shapes(config, part.partition)
        config = rank_config(config, part.partition)
        if not part.partition.is_last:
            config = replace(config, vocab_size=0)  # logits are made on the last stage alone
    weights = weight_bytes(config, dtype, options.max_model_len, shapes)
    room = Room(
        kv_bytes_per_token(config, dtype) * options.block_size,
        options.block_size,
        options.max_model_len,
        options.max_num_seqs,
    )
    activations = activation_bytes(config, dtype, device, options)
    if device != "cuda":
        available = available_memory() // (part.ranks_on_host if part else 1)
        num_blocks = host_num_blocks(available, weights, room, options.num_blocks)
        needs = Needs(weights, activations, 0)
        return MemoryPlan(needs, room.block_bytes, num_blocks, available, available)
    needs = Needs(weights, activations, CONTEXT_BYTES + CODE_BYTES)
    if card_bytes is None:
        free, total = gpu_memory()
        free = min(total, free + CONTEXT_BYTES)  # our own is there already
    else:
        free = total = card_bytes
    limit = gpu_limit(total, free, options.gpu_memory_utilization, options.gpu_memory_gb)
    num_blocks = gpu_num_blocks(limit, needs, room, options.num_blocks)
    return MemoryPlan(needs, room.block_bytes, num_blocks, total, limit)


def weight_bytes(
    config: ModelConfig,
    dtype: np.dtype,
    num_positions: int,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> int:
    """Return the bytes of a model's weights, RoPE's tables included.

    Parameters
    ----------
    config : ModelConfig
    dtype : dtype
    num_positions : int
        The longest context: RoPE has a row of float32 for each.
    shapes : dict of str to shape, optional
        Of the tensors, where they are not all of the whole model.
    """
    shapes = tensor_shapes(config) if shapes is None else shapes
    parameters = sum(math.prod(shape) for shape in shapes.values())
    learned_positions = config.architecture == "GPT2LMHeadModel"
    rope = 0 if learned_positions else num_positions * config.head_dim * max(4, dtype.itemsize)
    return parameters * dtype.itemsize + rope


def kv_bytes_per_token(config: ModelConfig, dtype: np.dtype) -> int:
    """Return the bytes of a token's keys and values over all layers: 2 L G D numbers.

    Parameters
    ----------
    config : ModelConfig
    dtype : dtype
    """
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


def activation_bytes(
    config: ModelConfig, dtype: np.dtype, device: str, options: MemoryOptions
) -> int:
    """Return the bytes of the largest step besides weights and cache.

    On a GPU steps that only decode run as CUDA graphs, whose memory is their own.

    Parameters
    ----------
    config : ModelConfig
    dtype : dtype
    device : str
    options : MemoryOptions

    Returns
    -------
    int
    """
    num_tokens = min(options.max_num_batched_tokens, options.max_num_seqs * options.max_model_len)
    rows = options.max_num_seqs
    hidden = num_tokens * config.hidden_size * dtype.itemsize
    # Penalties take a copy of the logits, and of each token that was seen its id and its count.
    num_seen = min(config.vocab_size, options.max_model_len)
    penalties = rows * (4 * config.vocab_size + 8 * num_seen)
    largest = max(
        layer_bytes(config, dtype, num_tokens), hidden + logits_bytes(config, rows) + penalties
    )
    if device != "cuda":
        return largest
    pieces = math.ceil(options.max_model_len / _PIECE)
    partial = rows * config.num_heads * pieces * (config.head_dim + 2) * 4
    decoding = layer_bytes(config, dtype, rows) + partial + _PARTS_BYTES
    graphs = max(decoding, logits_bytes(config, rows) + _PARTS_BYTES)
    return _POOL_SLACK * largest + graphs


def layer_bytes(config: ModelConfig, dtype: np.dtype, num_tokens: int) -> int:
    """Return the bytes of a layer's activations at its widest moment.

    The residual stream is there throughout. What a variable of the model held in the layer before
    is there until the new one is.

    Parameters
    ----------
    config : ModelConfig
    dtype : dtype
    num_tokens : int
    """
    E, F = config.hidden_size, config.intermediate_size
    queries, keys = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    qkv = queries + 2 * keys
    # Of the layer before: q, k and v, mixed values, the inner product. The stream, and normed.
    projection = qkv + queries + F + 2 * E + qkv
    # q, k and v are new, turned queries and mixed values come.
    attention = qkv + queries + F + E + 2 * queries
    # All but the inner product is new, which is there twice.
    mlp = qkv + queries + F + 2 * E + F
    return num_tokens * max(projection, attention, mlp) * dtype.itemsize


def logits_bytes(config: ModelConfig, rows: int) -> int:
    """Return the bytes of logits in float32 and of drawing a token from each row.

    Parameters
    ----------
    config : ModelConfig
    rows : int
    """
    return rows * (4 * config.vocab_size + _SAMPLING_BYTES)
