"""What a decoder looks like, in one form for every family."""

from dataclasses import dataclass

from llm_numba.ops import RopeScaling


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape, the same for every family.

    Attributes
    ----------
    architecture : str
        Transformers' class name.
    hidden_size, intermediate_size, vocab_size : int
        E, F, V.
    num_layers, num_heads, num_kv_heads, head_dim : int
        L, H, G, D.
    max_position_embeddings : int
        The longest context, in tokens; of RoPE that stretches, what is taken without asking.
    norm_eps : float
    activation : {"silu", "gelu", "gelu_tanh"}
    tie_word_embeddings : bool
        The LM head is the embedding table.
    qkv_bias, out_bias, mlp_bias : bool
    qk_norm : bool
        RMSNorm on each head's query and key before RoPE (Qwen3).
    rope_theta : float
    rope_scaling : RopeScaling
    windows : tuple of (int or None), one a layer
        Sliding window in tokens; None sees everything.
    attention_scales : tuple of float, one a layer
        What scores are multiplied by, usually 1/sqrt(D).
    dtype : str
        Storage format of the weights, as declared.
    bos_token_id : int or None
    eos_token_ids : tuple of int
    """

    architecture: str
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    norm_eps: float
    activation: str
    tie_word_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    rope_theta: float
    rope_scaling: RopeScaling
    windows: tuple[int | None, ...]
    attention_scales: tuple[float, ...]
    dtype: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def longest_context(self) -> int:
        """The longest context that may be asked for: RoPE may stretch beyond the declared one."""
        scaling, declared = self.rope_scaling, self.max_position_embeddings
        if scaling.kind not in ("dynamic", "yarn"):
            return declared
        return max(declared, int(scaling.factor * scaling.original_context))
