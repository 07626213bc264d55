"""The persistent runner: a step of one sequence is one launch that never leaves the GPU.

An alternative to the graph of kernels, for models so small that the gaps between kernels count. See
:mod:`llm_numba.kernels.persistent`. Batches and prompts go the usual way, over the same weights.
"""

import dataclasses
import math

import numpy as np

from llm_numba.errors import EngineError
from llm_numba.kernels.persistent_plan import Weights, plan, workspace
from llm_numba.kernels.persistent_shape import Shape
from llm_numba.kernels.ptx import VECTOR
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder, Execution, ForwardBatch
from llm_numba.models.llama import LlamaModel
from llm_numba.runtime import Array, empty, kind_of, launch, storage_dtype, zeros
from llm_numba.runtime.room import room_of

_GROUPS = (1, 2, 4, 8)


class PersistentDecoder:
    """Scores the next token of one sequence.

    The matrices of the model are moved into one array, of which the model has views afterwards.
    While they move, there is room for both on the device.

    Parameters
    ----------
    model : Decoder
        Of the Llama family, without biases and without norms of heads.
    kv_cache : PagedKVCache
        On the model's device.

    Raises
    ------
    EngineError
        If the kernel cannot run the model.
    """

    def __init__(self, model: Decoder, kv_cache: PagedKVCache) -> None:
        if problem := _problem(model):
            raise _refusal(problem)
        self._shape = shape_of(model, kv_cache.block_size)
        self._weights = _gather(model, self._shape)
        config = model.config
        self._caches = kv_cache.keys, kv_cache.values
        # Scores are powers of two.
        self._scale = config.attention_scales[0] * math.log2(math.e)
        self._eps = config.norm_eps
        device = kind_of(model.lm_head)
        self._space = workspace(self._shape, model.lm_head.dtype, device)
        self._likeliest = zeros(1, np.int64, device)

    def decode(self, batch: ForwardBatch, out: Array | None = None) -> Array:
        """Queue a step.

        Parameters
        ----------
        batch : ForwardBatch
            Of one token.
        out : int64 [1], optional
            Where the most likely next token goes, the first of equals;
            :data:`~llm_numba.engine.step.NOT_FINITE` if the largest logit is not a finite number.

        Returns
        -------
        float32 [1, V]
            Logits.
        """
        logits = empty((1, self._shape.vocabulary), np.float32, like=batch.token_ids)
        launch(
            *plan(
                self._shape,
                self._weights,
                self._caches,
                batch.block_tables,
                batch.token_ids,
                batch.positions,
                batch.slot_mapping,
                self._eps,
                self._scale,
                self._space,
                logits.reshape(-1),
                self._likeliest if out is None else out,
            )
        )
        return logits


def shape_of(model: Decoder, block_size: int) -> Shape:
    """Describe a model to the kernel, and the grid that its device has room for.

    Parameters
    ----------
    model : Decoder
    block_size : int
        Positions in a block of the KV cache.

    Returns
    -------
    Shape

    Raises
    ------
    EngineError
        If the device gives a block too little shared memory.
    """
    config, width = model.config, VECTOR[storage_dtype(model.lm_head)]
    room = room_of(model.lm_head)
    shape = Shape(
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
        block_size=block_size,
        width=width,
        blocks=max(room.multiprocessors, config.num_kv_heads),
    ).fitted(room.shared_bytes)
    if shape is None:
        raise _refusal(f"its vectors leave no room in {room.shared_bytes} bytes of shared memory")
    return shape


def _refusal(problem: str) -> EngineError:
    return EngineError(
        f"The persistent runner cannot run this model: {problem}.",
        "Leave persistent=True (--persistent) away: graphs run every model.",
    )


def _problem(model: Decoder) -> str | None:
    """Say why the kernel cannot run a model; None if it can."""
    if not isinstance(model, LlamaModel):
        return "it is not of the Llama family"
    if dataclasses.replace(model.execution, overlap_launches=False) != Execution():
        return "it is to be run another way (execution, batch_invariant)"
    config = model.config
    if config.qkv_bias or config.out_bias or config.mlp_bias:
        return "its products have biases"
    if config.qk_norm:
        return "it normalises heads"
    if any(window is not None for window in config.windows):
        return "its attention has a window"
    if len(set(config.attention_scales)) > 1:
        return "its layers scale scores differently"
    if 2 * model.cos.shape[1] != config.head_dim:
        return "RoPE turns a part of each head only"
    if config.num_heads // config.num_kv_heads not in _GROUPS:
        return "its KV heads serve none of 1, 2, 4 or 8 query heads"
    width = VECTOR[storage_dtype(model.lm_head)]
    sizes = config.hidden_size, config.intermediate_size, config.head_dim
    if any(size % width for size in sizes):
        return f"its sizes {sizes} are not all multiples of {width}"
    return None


def _gather(model: LlamaModel, shape: Shape) -> Weights:
    """Move a model's matrices into one array; leave the model views of it."""
    arena = empty(shape.arena_size, model.lm_head.dtype, like=model.lm_head)
    place = 0

    def moved(matrix: Array) -> Array:
        nonlocal place
        view = arena[place : place + matrix.size].reshape(matrix.shape)
        view[...] = matrix
        place += matrix.size
        return view

    tied = model.embed_tokens is model.lm_head
    model.lm_head = moved(model.lm_head)
    if tied:
        model.embed_tokens = model.lm_head
    names = ("qkv", "out", "gate_up", "down")
    for i, layer in enumerate(model.layers):
        matrices = {name: moved(getattr(layer, name)) for name in names}
        model.layers[i] = dataclasses.replace(layer, **matrices)
    norms = empty((2 * shape.layers + 1, shape.hidden), arena.dtype, like=arena)
    for i, layer in enumerate(model.layers):
        norms[2 * i], norms[2 * i + 1] = layer.input_norm, layer.post_attention_norm
    norms[-1] = model.final_norm
    return Weights(arena, model.embed_tokens, norms, model.cos, model.sin)
