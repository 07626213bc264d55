"""The table of golden checkpoints: which model, in whose spelling, stored how, and why.

A case is written by one release line of Transformers, because the spelling of `config.json` is
that release's own: 4.51 writes `torch_dtype`, `rope_theta` and `rope_scaling`; 4.57 writes
`dtype` with the same RoPE keys; 5 writes `dtype` and `rope_parameters`. Files on the hub are
older than any of these in places, so `edit` names a change of the files (see `make.py`) that
Transformers itself still reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOCAB = 32
STEPS = 32


@dataclass(frozen=True)
class Case:
    """One checkpoint, one prompt.

    Attributes
    ----------
    name, family : str
        Directory name; key of `checkpoints.FAMILIES`.
    writer : str
        Beginning of the Transformers version that writes it.
    config : dict
        Keyword arguments of the configuration class.
    covers : tuple of str
        What this case adds to the others.
    prompt_length : int
        S. Pages of the KV cache hold 16 tokens by default, hence 15, 16 and 17.
    storage : str
        dtype of the stored weights.
    shard_size : str or None
        Largest shard, None for a single file.
    without : dict
        Feature -> how to switch it off: configuration overrides, or the ending of the tensor
        names to neutralise. The logits must change, or the case would not test the feature.
    edit : str or None
        Change of the written files, a function of `make.py`.
    """

    name: str
    family: str
    writer: str
    config: dict[str, Any]
    covers: tuple[str, ...]
    prompt_length: int
    storage: str = "bfloat16"
    shard_size: str | None = None
    without: dict[str, dict[str, Any] | str] = field(default_factory=dict)
    edit: str | None = None


def decoder(**changes: Any) -> dict[str, Any]:
    """Shape of the Llama-like cases: 4 query heads of 4, 2 KV heads, 2 layers."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }


def gpt2(n_positions: int, **changes: Any) -> dict[str, Any]:
    """Shape of the GPT-2 cases: 3 heads of 4, 2 layers."""
    return {
        "vocab_size": VOCAB,
        "n_embd": 12,
        "n_layer": 2,
        "n_head": 3,
        "n_positions": n_positions,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }


# The longest wavelength below 32 / 4 keeps its frequency, those above 32 / 1 are divided by 4,
# and those between are blended: theta 100 puts pairs of a head of 8 in each of the three ranges.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "factor": 4.0}
# Of 4 pairs of a head of 8, the first turns more than twice in 32 positions, the last less than
# half; those between lie on the ramp.
YARN_ROPE = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 2.0,
    "beta_slow": 0.5,
    "truncate": False,
}
# Prompts are longer than the original context: short factors would count up to it.
LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0, 1.0, 1.5, 1.5],
    "long_factor": [1.0, 1.5, 2.5, 4.0],
}
MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
NO_SCALING = {"rope_scaling": None}
NO_WINDOW = {"sliding_window": None}
ALL_FULL = {"layer_types": ["full_attention"] * 4}

LLAMA = [
    Case(
        "llama2", "llama", "4.51",
        decoder(num_key_value_heads=4, rms_norm_eps=0.05),
        ("multi-head attention", "rms_norm_eps", "rotary_emb.inv_freq buffers in the file"),
        prompt_length=16, storage="float16", edit="add_rotary_buffers",
        without={"rms_norm_eps": {"rms_norm_eps": 1e-6}},
    ),
    Case(
        "llama-linear-rope", "llama", "4.57",
        decoder(rope_scaling=LINEAR_ROPE),
        ("grouped queries", "linear RoPE scaling", 'the old key "type" in rope_scaling'),
        prompt_length=22, shard_size="3KB", edit="spell_rope_type_as_type",
        without={"linear RoPE scaling": NO_SCALING},
    ),
    Case(
        "llama3", "llama", "5.",
        decoder(num_attention_heads=2, num_key_value_heads=1,
                rope_theta=100.0, rope_scaling=LLAMA3_ROPE),
        ("llama3 RoPE scaling", "positions beyond the original context", "one KV head"),
        prompt_length=24,
        without={"llama3 RoPE scaling": NO_SCALING,
                 "blended range": {"rope_scaling": LLAMA3_ROPE | {"high_freq_factor": 3.0}},
                 "rope_theta": {"rope_theta": 1e4}},
    ),
    Case(
        "llama3-tied", "llama", "4.57",
        decoder(head_dim=8, rope_theta=100.0, rope_scaling=LLAMA3_ROPE, tie_word_embeddings=True),
        ("llama3 RoPE scaling", "head_dim unequal to hidden/heads", "tied embeddings"),
        prompt_length=20, storage="float16", shard_size="4KB",
        without={"llama3 RoPE scaling": NO_SCALING},
    ),
    Case(
        "llama-yarn", "llama", "5.",
        decoder(num_attention_heads=2, num_key_value_heads=1,
                rope_theta=100.0, rope_scaling=YARN_ROPE),
        ("yarn RoPE scaling", "cosines and sines that grow"),
        prompt_length=23,
        without={"yarn RoPE scaling": NO_SCALING,
                 "the ramp": {"rope_scaling": YARN_ROPE | {"beta_slow": 1.0}},
                 "attention factor": {"rope_scaling": YARN_ROPE | {"attention_factor": 1.0}}},
    ),
    Case(
        "llama-longrope", "llama", "5.",
        decoder(num_attention_heads=2, num_key_value_heads=1,
                rope_theta=100.0, rope_scaling=LONGROPE),
        ("longrope RoPE scaling", "cosines and sines that grow"),
        prompt_length=18,
        without={"longrope RoPE scaling": NO_SCALING,
                 "attention factor": {"rope_scaling": LONGROPE | {"attention_factor": 1.0}}},
    ),
    Case(
        "llama-biases", "llama", "5.",
        decoder(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        ("attention_bias", "mlp_bias", "tied embeddings"),
        prompt_length=17, storage="float32",
        without={"attention_bias": "_proj.bias", "mlp_bias": "down_proj.bias"},
    ),
    Case(
        "llama-one-token", "llama", "5.",
        decoder(rope_scaling=LINEAR_ROPE),
        ("a prompt of one token", "linear RoPE scaling"),
        prompt_length=1, shard_size="3KB",
        without={"linear RoPE scaling": NO_SCALING},
    ),
]  # fmt: skip

MISTRAL = [
    Case(
        "mistral-window", "mistral", "4.57",
        decoder(sliding_window=6),
        ("sliding window shorter than the prompt",),
        prompt_length=24,
        without={"sliding_window": NO_WINDOW, "window off by one": {"sliding_window": 7}},
    ),
    Case(
        "mistral-no-window", "mistral", "4.51",
        decoder(sliding_window=None, rope_theta=1e6),
        ("sliding_window null", "rope_theta"),
        prompt_length=15, storage="float16", shard_size="3KB",
        without={"rope_theta": {"rope_theta": 1e4}},
    ),
    Case(
        "mistral-head-dim", "mistral", "5.",
        decoder(sliding_window=None, num_attention_heads=2, num_key_value_heads=1, head_dim=12),
        ("head_dim unequal to hidden/heads", "sliding_window null"),
        prompt_length=20, shard_size="3KB",
    ),
    Case(
        "mistral-window-page", "mistral", "5.",
        decoder(sliding_window=16, tie_word_embeddings=True),
        ("sliding window of one KV page", "tied embeddings"),
        prompt_length=17, storage="float16",
        without={"sliding_window": NO_WINDOW, "window off by one": {"sliding_window": 15}},
    ),
    Case(
        "mistral-one-token", "mistral", "4.57",
        decoder(sliding_window=4, tie_word_embeddings=True, num_key_value_heads=4),
        ("a prompt of one token", "the window fills while decoding"),
        prompt_length=1, storage="float16",
        without={"sliding_window": NO_WINDOW, "window off by one": {"sliding_window": 3}},
    ),
]  # fmt: skip

QWEN2 = [
    Case(
        "qwen2", "qwen2", "4.57",
        decoder(),
        ("QKV bias",),
        prompt_length=21, shard_size="3KB",
        without={"QKV bias": "_proj.bias"},
    ),
    Case(
        "qwen2-tied", "qwen2", "4.51",
        decoder(tie_word_embeddings=True, rope_theta=1e6),
        ("tied embeddings, the head stored all the same", "rope_theta"),
        prompt_length=16, storage="float16", edit="store_tied_head",
        without={"rope_theta": {"rope_theta": 1e4}},
    ),
    Case(
        "qwen2-upper-layers-slide", "qwen2", "4.57",
        decoder(num_hidden_layers=4, tie_word_embeddings=True,
                use_sliding_window=True, sliding_window=6, max_window_layers=2),
        ("max_window_layers", "no layer_types, as before 4.53"),
        prompt_length=20, edit="drop_layer_types",
        without={"max_window_layers": {"max_window_layers": 4},
                 "lower layers stay full": {"max_window_layers": 0}},
    ),
    Case(
        "qwen2-layer-types", "qwen2", "5.",
        decoder(num_hidden_layers=4, use_sliding_window=True,
                sliding_window=5, max_window_layers=4, layer_types=MIXED_LAYERS),
        ("layer_types that max_window_layers would not give",),
        prompt_length=23, shard_size="4KB",
        without={"layer_types": ALL_FULL},
    ),
    Case(
        "qwen2-window-off", "qwen2", "5.",
        decoder(tie_word_embeddings=True),
        ("a sliding_window that use_sliding_window switches off", "a prompt of one token"),
        prompt_length=1, storage="float16", edit="name_unused_window",
        without={"switched off": {"use_sliding_window": True, "sliding_window": 4,
                                  "max_window_layers": 0}},
    ),
]  # fmt: skip

QWEN3 = [
    Case(
        "qwen3", "qwen3", "5.",
        decoder(num_attention_heads=2, num_key_value_heads=1, head_dim=8),
        ("QK norm",),
        prompt_length=20,
        without={"query norm": "q_norm.weight", "key norm": "k_norm.weight"},
    ),
    Case(
        "qwen3-tied", "qwen3", "4.57",
        decoder(head_dim=6, tie_word_embeddings=True, rms_norm_eps=0.05),
        ("head_dim unequal to hidden/heads", "tied embeddings", "rms_norm_eps"),
        prompt_length=24, storage="float16", shard_size="4KB",
        without={"rms_norm_eps": {"rms_norm_eps": 1e-6}},
    ),
    Case(
        "qwen3-biases", "qwen3", "4.57",
        decoder(head_dim=4, attention_bias=True),
        ("attention_bias",),
        prompt_length=17, storage="float32",
        without={"attention_bias": "_proj.bias"},
    ),
    Case(
        "qwen3-layer-types", "qwen3", "5.",
        decoder(num_hidden_layers=4, head_dim=4, tie_word_embeddings=True,
                use_sliding_window=True, sliding_window=6, max_window_layers=1),
        ("sliding layers above full ones", "tied embeddings"),
        prompt_length=22, shard_size="4KB",
        without={"layer_types": ALL_FULL},
    ),
    Case(
        "qwen3-one-token", "qwen3", "4.51",
        decoder(head_dim=8, rope_theta=1e6, num_key_value_heads=4),
        ("a prompt of one token", "multi-head attention", "rope_theta"),
        prompt_length=1,
        without={"rope_theta": {"rope_theta": 1e4}},
    ),
]  # fmt: skip

GPT2 = [
    Case(
        "gpt2", "gpt2", "4.51",
        gpt2(16 + STEPS),
        ("gelu_new", "every learned position", "tied embeddings"),
        prompt_length=16, storage="float32",
        without={"gelu_new": {"activation_function": "gelu"}, "attention bias": "c_attn.bias"},
    ),
    Case(
        "gpt2-as-on-the-hub", "gpt2", "4.57",
        gpt2(1 + STEPS),
        ('no "transformer." prefix', "attn.bias mask buffers", "config.json of 2019"),
        prompt_length=1, storage="float16", edit="write_as_first_gpt2",
    ),
    Case(
        "gpt2-untied", "gpt2", "5.",
        gpt2(64, tie_word_embeddings=False, layer_norm_epsilon=0.05),
        ("untied head", "layer_norm_epsilon"),
        prompt_length=20, shard_size="4KB",
        without={"layer_norm_epsilon": {"layer_norm_epsilon": 1e-5}},
    ),
    Case(
        "gpt2-inverse-layer", "gpt2", "4.57",
        gpt2(64, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True, n_inner=16),
        ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "n_inner"),
        prompt_length=23, storage="float16", shard_size="4KB",
        without={"inverse layer": {"scale_attn_by_inverse_layer_idx": False}},
    ),
    Case(
        "gpt2-erf", "gpt2", "5.",
        gpt2(64, activation_function="gelu", scale_attn_weights=False, n_inner=16),
        ("exact GELU", "scale_attn_weights false", "n_inner"),
        prompt_length=17,
        without={"exact GELU": {"activation_function": "gelu_new"},
                 "unscaled attention": {"scale_attn_weights": True}},
    ),
]  # fmt: skip

CASES = LLAMA + MISTRAL + QWEN2 + QWEN3 + GPT2
