r"""Llama, and its relatives Mistral, Qwen2 and Qwen3.

A layer is two blocks on a residual stream r, each after an RMSNorm::

    r -> [norm -> q, k, v] -> [QK norm -> RoPE -> KV write] -> [attention] -> [product + r]
    r -> [norm -> gate, up -> SiLU(gate) * up] -> [product + r]

What stands in brackets is one operation: on a GPU what lies between two products stays out of
memory where it can, and a layer is six launches; five where one sequence decodes, and a short
context's attention turns and writes, too; and eight with more rows than a few, when norms are
launches of their own. Relatives differ by switches: biases, a norm on
each head's query and key, a sliding window.

References
----------
Touvron et al., "LLaMA", 2023; Jiang et al., "Mistral 7B", 2023; Qwen Team, "Qwen2 Technical
Report", 2024 and "Qwen3 Technical Report", 2025.
"""

from dataclasses import dataclass

from llm_numba import ops
from llm_numba.kvcache import PagedKVCache
from llm_numba.models.batch import ForwardBatch
from llm_numba.models.config import ModelConfig
from llm_numba.models.decoder import Decoder
from llm_numba.models.execution import Execution
from llm_numba.models.weights import WeightLoader
from llm_numba.parallel import Partition
from llm_numba.runtime import Array


@dataclass(frozen=True)
class LlamaLayer:
    """One layer's weights; where ranks share them, H, G and F are a rank's.

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

    input_norm: Array
    qkv: Array
    qkv_bias: Array | None
    q_norm: Array | None
    k_norm: Array | None
    out: Array
    out_bias: Array | None
    post_attention_norm: Array
    gate_up: Array
    gate_up_bias: Array | None
    down: Array
    down_bias: Array | None


class LlamaModel(Decoder):
    """A decoder of the Llama family.

    Parameters
    ----------
    config : ModelConfig
    load : WeightLoader
    num_positions : int
        How many positions RoPE is tabulated for.
    execution : Execution
    partition : Partition
    """

    def __init__(
        self,
        config: ModelConfig,
        load: WeightLoader,
        num_positions: int,
        execution: Execution,
        partition: Partition,
    ) -> None:
        tied = config.tie_word_embeddings
        first, last = partition.is_first, partition.is_last
        has_table = first or (last and tied)
        self.embed_tokens = load("model.embed_tokens.weight") if has_table else None
        self.layers = [_load_layer(config, load, i) for i in partition.layers]
        self.final_norm = load("model.norm.weight") if last else None
        lm_head = self.embed_tokens if tied and last else load("lm_head.weight") if last else None
        super().__init__(config, lm_head, execution, partition)
        scaling = config.rope_scaling
        frequencies = ops.rope_frequencies(
            config.head_dim, config.rope_theta, scaling, num_positions
        )
        # Not in 16 bits, whatever the weights are: angles of far positions would blur.
        factor = ops.rope_attention_factor(scaling)
        tables = ops.rope_tables(frequencies, num_positions, self.logits_dtype, factor)
        self.cos, self.sin = map(load.place, tables)

    @property
    def anchor(self) -> Array:
        """Return a weight; see :meth:`Decoder.anchor`."""
        return self.layers[0].qkv

    def forward(
        self, batch: ForwardBatch, kv_cache: PagedKVCache, hidden: Array | None = None
    ) -> Array:
        """Run the layers; see :meth:`Decoder.forward`."""
        run, tables = self.composites, (self.cos, self.sin)
        r = run.embed(batch.token_ids, self.embed_tokens) if hidden is None else hidden
        x = run.norm(r, self.layers[0].input_norm)
        # The final norm waits for the rows that are scored.
        next_norms = [*(layer.input_norm for layer in self.layers[1:]), None]
        for i, (layer, next_norm) in enumerate(zip(self.layers, next_norms, strict=True)):
            qkv = run.qkv(x, layer.qkv, layer.qkv_bias)
            head_norms = (layer.q_norm, layer.k_norm)
            mixed = run.attention(i, qkv, batch, kv_cache, tables, head_norms)
            r, x = run.close(mixed, layer.out, layer.out_bias, r, layer.post_attention_norm)
            inner = run.gated(x, layer.gate_up, layer.gate_up_bias)
            r, x = run.close(inner, layer.down, layer.down_bias, r, next_norm)
        return r

    def scores(self, hidden: Array) -> Array:
        """Score the next token; see :meth:`Decoder.scores`."""
        x = self.composites.norm(hidden, self.final_norm)
        return self.composites.product(x, self.lm_head, out_dtype=self.logits_dtype)


def _load_layer(config: ModelConfig, load: WeightLoader, i: int) -> LlamaLayer:
    layer = f"model.layers.{i}"
    qkv = [f"{layer}.self_attn.{name}_proj" for name in "qkv"]
    out = f"{layer}.self_attn.o_proj"
    gate_up = [f"{layer}.mlp.{name}_proj" for name in ("gate", "up")]
    down = f"{layer}.mlp.down_proj"

    def weight(*names: str) -> Array:
        return load(*(f"{name}.weight" for name in names))

    def bias(present: bool, *names: str) -> Array | None:
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
