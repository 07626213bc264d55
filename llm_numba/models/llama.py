r"""Llama, and its relatives Mistral, Qwen2 and Qwen3.

A layer is two blocks on a residual stream r, each after an RMSNorm::

    r -> norm -> q, k, v -> (QK norm) -> RoPE -> KV write -> attention -> output product -> + r
    r -> norm -> gate, up -> SiLU(gate) * up -> down product -> + r

Every addition to the stream is fused with the norm that follows it, so a layer's norms are named
for what they follow. Relatives differ by switches: biases, a norm on each head's query and key,
a sliding window.

References
----------
Touvron et al., "LLaMA", 2023; Jiang et al., "Mistral 7B", 2023; Qwen Team, "Qwen2 Technical
Report", 2024 and "Qwen3 Technical Report", 2025.
"""

from dataclasses import dataclass

import numpy as np

from llm_numba import ops
from llm_numba.kvcache import PagedKVCache
from llm_numba.models.batch import ForwardBatch
from llm_numba.models.checkpoint import WeightLoader
from llm_numba.models.config import ModelConfig
from llm_numba.models.decoder import Decoder


@dataclass(frozen=True)
class LlamaLayer:
    """One layer's weights.

    Attributes
    ----------
    input_norm, post_attention_norm : float [E]
    qkv : float [(H + 2G) D, E]
    qkv_bias : float [(H + 2G) D] or None
    q_norm, k_norm : float [D] or None
    out : float [E, H D]
    out_bias : float [E] or None
    gate_up : float [2F, E]
    gate_up_bias : float [2F] or None
    down : float [E, F]
    down_bias : float [E] or None
    """

    input_norm: np.ndarray
    qkv: np.ndarray
    qkv_bias: np.ndarray | None
    q_norm: np.ndarray | None
    k_norm: np.ndarray | None
    out: np.ndarray
    out_bias: np.ndarray | None
    post_attention_norm: np.ndarray
    gate_up: np.ndarray
    gate_up_bias: np.ndarray | None
    down: np.ndarray
    down_bias: np.ndarray | None


class LlamaModel(Decoder):
    """A decoder of the Llama family.

    Parameters
    ----------
    config : ModelConfig
    load : WeightLoader
    num_positions : int
        How many positions RoPE is tabulated for.
    """

    def __init__(self, config: ModelConfig, load: WeightLoader, num_positions: int) -> None:
        self.embed_tokens = load("model.embed_tokens.weight")
        self.layers = [_load_layer(config, load, i) for i in range(config.num_layers)]
        self.final_norm = load("model.norm.weight")
        tied = config.tie_word_embeddings
        super().__init__(config, self.embed_tokens if tied else load("lm_head.weight"))
        frequencies = ops.rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        self.cos, self.sin = ops.rope_tables(frequencies, num_positions, self.embed_tokens.dtype)

    def forward(self, batch: ForwardBatch, kv_cache: PagedKVCache) -> np.ndarray:
        """Run every layer; see :meth:`Decoder.forward`."""
        eps = self.config.norm_eps
        residual = ops.embedding(batch.token_ids, self.embed_tokens)
        x = ops.rms_norm(residual, self.layers[0].input_norm, eps)
        following = [layer.input_norm for layer in self.layers[1:]] + [self.final_norm]
        for i, layer in enumerate(self.layers):
            x = self._attention(i, x, batch, kv_cache)
            x, residual = ops.add_rms_norm(x, residual, layer.post_attention_norm, eps)
            gate_up = ops.linear(x, layer.gate_up, layer.gate_up_bias)
            x = ops.linear(ops.silu_mul(gate_up), layer.down, layer.down_bias)
            x, residual = ops.add_rms_norm(x, residual, following[i], eps)
        return x

    def _attention(
        self, i: int, x: np.ndarray, batch: ForwardBatch, kv_cache: PagedKVCache
    ) -> np.ndarray:
        config, layer = self.config, self.layers[i]
        H, G, D = config.num_heads, config.num_kv_heads, config.head_dim
        heads = ops.linear(x, layer.qkv, layer.qkv_bias).reshape(len(x), H + 2 * G, D)
        q, k, v = heads[:, :H], heads[:, H : H + G], heads[:, H + G :]
        if config.qk_norm:
            q = ops.rms_norm(q, layer.q_norm, config.norm_eps)
            k = ops.rms_norm(k, layer.k_norm, config.norm_eps)
        q = ops.rope(q, batch.positions, self.cos, self.sin)
        k = ops.rope(k, batch.positions, self.cos, self.sin)
        k_cache, v_cache = kv_cache.layers[i]
        ops.write_kv(k, v, k_cache, v_cache, batch.slot_mapping)
        mixed = ops.paged_attention(
            q,
            k_cache,
            v_cache,
            batch.block_tables,
            batch.query_starts,
            batch.context_lens,
            config.attention_scales[i],
            config.windows[i],
        )
        return ops.linear(mixed.reshape(len(x), H * D), layer.out, layer.out_bias)


def _load_layer(config: ModelConfig, load: WeightLoader, i: int) -> LlamaLayer:
    layer = f"model.layers.{i}"
    qkv = [f"{layer}.self_attn.{name}_proj" for name in "qkv"]
    out = f"{layer}.self_attn.o_proj"
    gate_up = [f"{layer}.mlp.{name}_proj" for name in ("gate", "up")]
    down = f"{layer}.mlp.down_proj"

    def weight(*names: str) -> np.ndarray:
        return load(*(f"{name}.weight" for name in names))

    def bias(present: bool, *names: str) -> np.ndarray | None:
        return load(*(f"{name}.bias" for name in names)) if present else None

    return LlamaLayer(
        input_norm=weight(f"{layer}.input_layernorm"),
        qkv=weight(*qkv),
        qkv_bias=bias(config.qkv_bias, *qkv),
        q_norm=weight(f"{layer}.self_attn.q_norm") if config.qk_norm else None,
        k_norm=weight(f"{layer}.self_attn.k_norm") if config.qk_norm else None,
        out=weight(out),
        out_bias=bias(config.out_bias, out),
        post_attention_norm=weight(f"{layer}.post_attention_layernorm"),
        gate_up=weight(*gate_up),
        gate_up_bias=bias(config.mlp_bias, *gate_up),
        down=weight(down),
        down_bias=bias(config.mlp_bias, down),
    )


def llama_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """List the tensors that a checkpoint of this family holds.

    Parameters
    ----------
    config : ModelConfig

    Returns
    -------
    dict of str to shape
    """
    E, F, D = config.hidden_size, config.intermediate_size, config.head_dim
    q_rows, kv_rows = config.num_heads * D, config.num_kv_heads * D
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, E),
        "model.norm.weight": (E,),
    }
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (config.vocab_size, E)
    products = {
        "self_attn.q_proj": (q_rows, E, config.qkv_bias),
        "self_attn.k_proj": (kv_rows, E, config.qkv_bias),
        "self_attn.v_proj": (kv_rows, E, config.qkv_bias),
        "self_attn.o_proj": (E, q_rows, config.out_bias),
        "mlp.gate_proj": (F, E, config.mlp_bias),
        "mlp.up_proj": (F, E, config.mlp_bias),
        "mlp.down_proj": (E, F, config.mlp_bias),
    }
    norms = {"input_layernorm": (E,), "post_attention_layernorm": (E,)}
    if config.qk_norm:
        norms |= {"self_attn.q_norm": (D,), "self_attn.k_norm": (D,)}
    for i in range(config.num_layers):
        for name, shape in norms.items():
            tensors[f"model.layers.{i}.{name}.weight"] = shape
        for name, (rows, columns, has_bias) in products.items():
            tensors[f"model.layers.{i}.{name}.weight"] = (rows, columns)
            if has_bias:
                tensors[f"model.layers.{i}.{name}.bias"] = (rows,)
    return tensors


def llama_ignores(name: str) -> bool:
    """Whether a tensor may be in a checkpoint without being needed.

    Old exports hold RoPE's frequencies; some hold a tied LM head a second time.
    """
    return name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")
