"""The Llama architecture in plain PyTorch, with Hugging Face's names for its tensors.

Only what training needs: no cache and no options. The engine's own model is
:mod:`llm_numba.models`; this one exists to make its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1536,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "use_cache": True,
    "dtype": "bfloat16",
}
"""config.json, but for the special tokens' ids.

``rope_parameters`` and ``dtype`` are Transformers 5's keys; ``rope_theta`` serves version 4.
"""


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, self.head_dim = config["hidden_size"], config["head_dim"]
        self.num_heads = config["num_attention_heads"]
        self.num_kv_heads = config["num_key_value_heads"]
        self.q_proj = nn.Linear(hidden, self.num_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.num_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.num_kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Return the attention output [B, S, hidden] of ``x`` [B, S, hidden]."""
        B, S, _ = x.shape
        q = self.q_proj(x).view(B, S, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(B, S, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(B, S, self.num_kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.num_heads // self.num_kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(B, S, -1))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [B, S, hidden] of ``x`` [B, S, hidden]."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """One block: attention and MLP, each on a normed input and added to its residual."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(hidden, eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Return the residual stream [B, S, hidden] after this block."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(
            DecoderLayer(config) for _ in range(config["num_hidden_layers"])
        )
        self.norm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])


class Llama(nn.Module):
    """A Llama language model with tied embeddings.

    Its state dict has exactly the names that Transformers gives a LlamaForCausalLM whose
    ``lm_head`` is tied.

    Parameters
    ----------
    config : dict
        As :data:`CONFIG`.
    """

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.model = Decoder(config)
        head_dim, theta = config["head_dim"], config["rope_theta"]
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        positions = torch.arange(config["max_position_embeddings"], dtype=torch.float64)
        angles = torch.outer(positions, frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        std = config["initializer_range"]
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # Residual branches start smaller, so that the sum over layers keeps its scale
                # (GPT-2, section 2.3).
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = (2 * config["num_hidden_layers"]) ** -0.5 if into_residual else 1.0
                nn.init.normal_(parameter, std=std * shrink)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the logits [B, S, V] of ``tokens`` [B, S] (int64).

        ``mask`` [B, 1, S, S] (bool) says which keys each query may see.
        """
        S = tokens.shape[1]
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[:S].to(x.dtype), self.sin[:S].to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head (Hugging Face's convention) of ``x`` [B, H, S, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def document_mask(tokens: Tensor, begin: int) -> Tensor:
    """Return the mask [B, 1, S, S] in which each packed document sees its own past only.

    ``begin`` is the id of the token that every document starts with.
    """
    document = (tokens == begin).cumsum(dim=1)
    same = document[:, :, None] == document[:, None, :]
    S = tokens.shape[1]
    causal = torch.ones(S, S, dtype=torch.bool, device=tokens.device).tril()
    return (same & causal)[:, None]
