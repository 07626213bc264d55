"""The running example of the walkthrough: one prompt, and the bundled model."""

from functools import cache
from typing import NamedTuple

import numpy as np

from llm_numba import LLM, ops
from llm_numba.models import load_model, open_model
from llm_numba.reference.softmax import softmax

PROMPT = "Emma had a red ball. One day, Emma lost the red"


@cache
def llm() -> LLM:
    """Load the bundled model once a build."""
    return LLM(device="cpu")


@cache
def model():
    """Load its weights, for figures that look inside."""
    return load_model(open_model(llm().model_dir), np.dtype("float32"), num_positions=64)


@cache
def tokens() -> list[tuple[int, str]]:
    """Return the prompt's token ids with their texts."""
    tokenizer = llm().tokenizer
    ids = tokenizer.encode(PROMPT)
    return [(i, tokenizer.decode([i], skip_special_tokens=False)) for i in ids]


class LayerTrace(NamedTuple):
    """What happens in a layer of the running example.

    Attributes
    ----------
    before, between, after : float32 [S, E]
        The residual stream before the layer, between its two blocks, and behind it.
    weights : float32 [H, S, S]
        Of attention.
    """

    before: np.ndarray
    between: np.ndarray
    after: np.ndarray
    weights: np.ndarray


@cache
def trace() -> list[LayerTrace]:
    """Run the prompt through the layers, one operation after the other, and keep what they make."""
    decoder = model()
    config = decoder.config
    H, G, D, eps = config.num_heads, config.num_kv_heads, config.head_dim, config.norm_eps
    ids = np.array([token_id for token_id, _ in tokens()])
    positions = np.arange(len(ids))
    mask = positions[None, :] <= positions[:, None]
    residual, layers = ops.embedding(ids, decoder.embed_tokens), []
    for layer in decoder.layers:
        before = residual
        x = ops.rms_norm(before, layer.input_norm, eps)
        heads = ops.linear(x, layer.qkv).reshape(len(x), H + 2 * G, D)
        q = ops.rope(heads[:, :H], positions, decoder.cos, decoder.sin)
        k = ops.rope(heads[:, H : H + G], positions, decoder.cos, decoder.sin)
        scores = np.einsum("shd,thd->hst", q, k.repeat(H // G, axis=1))
        mixed = ops.causal_attention(q, k, heads[:, H + G :], D**-0.5)
        between = before + ops.linear(mixed.reshape(len(x), H * D), layer.out)
        x = ops.rms_norm(between, layer.post_attention_norm, eps)
        residual = between + ops.linear(ops.silu_mul(ops.linear(x, layer.gate_up)), layer.down)
        layers.append(LayerTrace(before, between, residual, softmax(scores, D**-0.5, mask)))
    return layers
