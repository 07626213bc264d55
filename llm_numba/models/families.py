"""``config.json`` of the five families: names of keys, and defaults.

Llama, Mistral, Qwen2 and Qwen3 are one architecture with small switches; GPT-2 is the older one.
Read are the spelling of Transformers 4 (``rope_theta``, ``rope_scaling``, ``torch_dtype``) and that
of Transformers 5 (``rope_parameters``, ``dtype``). A value left out takes the default that
Transformers gives that family.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_numba.models.config import ModelConfig
from llm_numba.models.fields import Fields, read_json
from llm_numba.models.rope_fields import read_rope
from llm_numba.ops import RopeScaling

# Layers are listed one by one: a slip of the pen must not fill the memory with the list.
MOST_LAYERS = 10_000

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def load_config(directory: Path) -> ModelConfig:
    """Read the configuration of a checkpoint directory.

    Parameters
    ----------
    directory : Path

    Returns
    -------
    ModelConfig

    Raises
    ------
    ConfigError
        If the file is missing or malformed, or names an architecture, activation or RoPE variant
        that is not supported.
    """
    return parse_config(read_json(directory / "config.json"), str(directory / "config.json"))


def parse_config(raw: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """Turn the contents of ``config.json`` into a :class:`ModelConfig`.

    Parameters
    ----------
    raw : dict
    source : str
        What to call the file in errors.

    Raises
    ------
    ConfigError
        See :func:`load_config`.
    """
    fields = Fields(raw, source)
    model_type = raw.get("model_type")
    named = raw.get("architectures") or MODEL_TYPES.get(str(model_type), model_type)
    architecture = str(named[0] if isinstance(named, list) else named)
    if architecture not in FAMILIES:
        raise fields.fail(
            f"architecture {architecture!r} is not supported",
            f"Supported are: {', '.join(sorted(FAMILIES))}.",
        )
    config = FAMILIES[architecture](architecture, fields)
    if config.num_heads % config.num_kv_heads:
        raise fields.fail(
            f"{config.num_heads} query heads cannot share {config.num_kv_heads} KV heads evenly",
            "The number of KV heads must divide the number of query heads.",
        )
    return config


def _llama(architecture: str, fields: Fields) -> ModelConfig:
    bias = fields.get("attention_bias", bool, False)
    return _decoder(
        architecture,
        fields,
        default_positions=2048,
        default_eos=2,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.get("mlp_bias", bool, False),
    )


def _mistral(architecture: str, fields: Fields) -> ModelConfig:
    window = _window(fields)
    return _decoder(
        architecture,
        fields,
        default_positions=131072,
        default_kv_heads=8,
        default_eos=2,
        window=window,
    )


def _qwen2(architecture: str, fields: Fields) -> ModelConfig:
    return _decoder(
        architecture,
        fields,
        default_positions=32768,
        default_kv_heads=32,
        qkv_bias=True,
        **_qwen_window(fields),
    )


def _qwen3(architecture: str, fields: Fields) -> ModelConfig:
    bias = fields.get("attention_bias", bool, False)
    return _decoder(
        architecture,
        fields,
        default_positions=32768,
        default_kv_heads=32,
        default_head_dim=128,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        **_qwen_window(fields),
    )


def _window(fields: Fields) -> int | None:
    # Here a missing key and null differ: Transformers' default is a window, null is none.
    if "sliding_window" in fields.raw and fields.raw["sliding_window"] is None:
        return None
    return fields.size("sliding_window", 4096)


def _qwen_window(fields: Fields) -> dict:
    # The first max_window_layers layers see everything, those after them the window.
    if not fields.get("use_sliding_window", bool, False):
        return {"window": None}
    return {
        "window": _window(fields),
        "first_window_layer": fields.get("max_window_layers", int, 28),
    }


def _decoder(
    architecture: str,
    fields: Fields,
    *,
    default_positions: int,
    default_kv_heads: int | None = None,
    default_head_dim: int | None = None,
    default_eos: int | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    window: int | None = None,
    first_window_layer: int = 0,
) -> ModelConfig:
    """Read what Llama, Mistral, Qwen2 and Qwen3 have in common."""
    hidden_size = fields.size("hidden_size")
    num_layers = fields.size("num_hidden_layers", most=MOST_LAYERS)
    num_heads = fields.size("num_attention_heads")
    if default_kv_heads is None or "num_key_value_heads" in fields.raw:
        default_kv_heads = num_heads  # what null stands for
    head_dim = fields.size("head_dim", default_head_dim or hidden_size // num_heads)
    if head_dim % 2:
        raise fields.fail(
            f"'head_dim' is {head_dim}, but RoPE turns components in pairs",
            "Correct that value; it is hidden_size over num_attention_heads if left out.",
        )
    num_positions = fields.size("max_position_embeddings", default_positions)
    theta, scaling = read_rope(fields, head_dim, num_positions)
    activation = _activation(fields, fields.get("hidden_act", str, "silu"))
    if activation != "silu":
        raise fields.fail(
            f"'hidden_act' is {activation!r}, but the gate of this family is computed with silu",
            "Use a checkpoint with hidden_act 'silu'.",
        )
    return ModelConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=fields.size("intermediate_size"),
        vocab_size=fields.size("vocab_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=fields.size("num_key_value_heads", default_kv_heads),
        head_dim=head_dim,
        max_position_embeddings=num_positions,
        norm_eps=fields.positive("rms_norm_eps", 1e-6),
        activation=activation,
        tie_word_embeddings=fields.get("tie_word_embeddings", bool, False),
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        rope_theta=theta,
        rope_scaling=scaling,
        windows=_windows(fields, num_layers, window, first_window_layer),
        attention_scales=(head_dim**-0.5,) * num_layers,
        dtype=_storage_dtype(fields),
        bos_token_id=fields.get("bos_token_id", int),
        eos_token_ids=token_id_list(fields, "eos_token_id", default_eos),
    )


def _gpt2(architecture: str, fields: Fields) -> ModelConfig:
    hidden_size = fields.size("n_embd")
    num_layers = fields.size("n_layer", most=MOST_LAYERS)
    num_heads = fields.size("n_head")
    if hidden_size % num_heads:
        raise fields.fail(
            f"'n_embd' is {hidden_size}, which {num_heads} heads ('n_head') do not divide",
            "Correct those values.",
        )
    head_dim = hidden_size // num_heads
    scale = head_dim**-0.5 if fields.get("scale_attn_weights", bool, True) else 1.0
    by_layer = fields.get("scale_attn_by_inverse_layer_idx", bool, False)
    return ModelConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=fields.size("n_inner", 4 * hidden_size),
        vocab_size=fields.size("vocab_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_position_embeddings=fields.size("n_positions", 1024),
        norm_eps=fields.positive("layer_norm_epsilon", 1e-5),
        activation=_activation(fields, fields.get("activation_function", str, "gelu_new")),
        tie_word_embeddings=fields.get("tie_word_embeddings", bool, True),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        qk_norm=False,
        rope_theta=0.0,
        rope_scaling=RopeScaling(),
        windows=(None,) * num_layers,
        attention_scales=tuple(scale / (i + 1 if by_layer else 1) for i in range(num_layers)),
        dtype=_storage_dtype(fields),
        bos_token_id=fields.get("bos_token_id", int),
        eos_token_ids=token_id_list(fields, "eos_token_id", 50256),
    )


FAMILIES: dict[str, Callable[[str, Fields], ModelConfig]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "GPT2LMHeadModel": _gpt2,
}

# What a config.json without "architectures" goes by.
MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def _windows(
    fields: Fields, num_layers: int, window: int | None, first_window_layer: int
) -> tuple[int | None, ...]:
    kinds = fields.get("layer_types", list)
    if kinds is None:
        return tuple(window if i >= first_window_layer else None for i in range(num_layers))
    known = {"full_attention": None, "sliding_attention": window}
    if len(kinds) != num_layers or any(str(kind) not in known for kind in kinds):
        raise fields.fail(
            f"'layer_types' does not give one of {', '.join(known)} for each of the {num_layers} "
            "layers",
            "Correct that list or remove it.",
        )
    return tuple(known[kind] for kind in kinds)


def _activation(fields: Fields, name: str) -> str:
    if name not in ACTIVATIONS:
        raise fields.fail(
            f"activation {name!r} is not supported", f"Supported are: {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


def _storage_dtype(fields: Fields) -> str:
    return fields.get("dtype", str, fields.get("torch_dtype", str, "float32"))


def token_id_list(fields: Fields, key: str, default: int | None = None) -> tuple[int, ...]:
    """Read one token id or a list of them.

    Parameters
    ----------
    fields : Fields
    key : str
    default : int, optional
        Where the key is left out; null is none.

    Returns
    -------
    tuple of int
    """
    value = fields.raw.get(key, default)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise fields.fail(f"'{key}' is {value!r}, no token id", "Correct that value.")
    return tuple(ids)
