"""Random configurations of the five families, one for each number."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

# In a narrower model a token's components may all but cancel, and the norm behind them then
# magnifies the rounding of either engine a hundred times.
MIN_HIDDEN_SIZE = 16


@dataclass(frozen=True)
class Draw:
    """A configuration with how it is stored and a prompt for it.

    Attributes
    ----------
    config : dict
        Keyword arguments of the family's configuration class.
    storage : str
        dtype of the stored weights.
    shard_size : str or None
    prompt : list of int
    steps : int
        Greedy tokens to compare.
    block_size : int
        Tokens per page of our KV cache.
    """

    config: dict[str, Any]
    storage: str
    shard_size: str | None
    prompt: list[int]
    steps: int
    block_size: int


def draw(family: str, number: int) -> Draw:
    """Draw a configuration; the same number gives the same one."""
    rng = np.random.default_rng([number, zlib.crc32(family.encode())])
    steps = int(rng.integers(8, 33))
    prompt_length = int(rng.choice([1, 2, rng.integers(3, 16), rng.integers(16, 50)]))
    # One in three has not a single position to spare.
    context = prompt_length + steps + int(rng.choice([0, 3, 40]))
    config = {
        "vocab_size": int(rng.integers(24, 65)),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": bool(rng.integers(2)),
    }
    shape = _gpt2 if family == "gpt2" else _decoder
    config |= shape(rng, context)
    config |= _SWITCHES[family](rng, config, prompt_length)
    return Draw(
        config,
        storage=str(rng.choice(["float32", "float16", "bfloat16"])),
        shard_size=rng.choice([None, "4KB", "20KB"]),
        prompt=rng.integers(config["vocab_size"], size=prompt_length).tolist(),
        steps=steps,
        block_size=int(rng.choice([1, 4, 16])),
    )


def _decoder(rng: np.random.Generator, context: int) -> dict[str, Any]:
    kv_heads, group = int(rng.choice([1, 2, 3])), int(rng.choice([1, 2, 4]))
    heads = kv_heads * group
    head_dim = int(rng.choice([4, 8, 10, 16]))
    # Half of the time as wide as the heads, where that is wide enough, half of the time not.
    width = int(rng.choice([head_dim, rng.integers(3, 9)]))
    return {
        "hidden_size": heads * max(width, -(-MIN_HIDDEN_SIZE // heads)),
        "head_dim": head_dim,
        "intermediate_size": int(rng.integers(5, 40)),
        "num_hidden_layers": int(rng.integers(1, 5)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "rms_norm_eps": float(rng.choice([1e-6, 1e-5, 1e-2])),
        "rope_theta": float(rng.choice([100.0, 1e4, 5e5])),
        "rope_scaling": _rope_scaling(rng, context),
    }


def _rope_scaling(rng: np.random.Generator, context: int) -> dict[str, Any] | None:
    kind = str(rng.choice(["default", "linear", "dynamic", "llama3", "yarn"]))
    factor = float(rng.choice([1.5, 4.0, 8.0]))
    if kind in ("linear", "dynamic"):
        return {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        original = max(1, context // int(rng.integers(1, 5)))
        return {
            "rope_type": "yarn",
            # Transformers 4 takes the ratio whatever is said.
            "factor": context / original,
            "original_max_position_embeddings": original,
            "beta_fast": float(rng.choice([2.0, 32.0])),
            "truncate": bool(rng.integers(2)),
        }
    if kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": float(rng.choice([1.0, 1.5])),
            "high_freq_factor": float(rng.choice([2.0, 4.0])),
            "original_max_position_embeddings": max(1, context // int(rng.integers(2, 5))),
        }
    return None


def _llama(rng: np.random.Generator, config: dict[str, Any], prompt_length: int) -> dict[str, Any]:
    return {"attention_bias": bool(rng.integers(2)), "mlp_bias": bool(rng.integers(2))}


def _mistral(
    rng: np.random.Generator, config: dict[str, Any], prompt_length: int
) -> dict[str, Any]:
    return {"sliding_window": _window(rng, prompt_length)}


def _qwen2(rng: np.random.Generator, config: dict[str, Any], prompt_length: int) -> dict[str, Any]:
    window = _window(rng, prompt_length)
    layers = config["num_hidden_layers"]
    switches = {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": int(rng.integers(layers + 1)),
    }
    if window is not None and rng.integers(2):
        kinds = ["full_attention", "sliding_attention"]
        switches["layer_types"] = rng.choice(kinds, layers).tolist()
    return switches


def _qwen3(rng: np.random.Generator, config: dict[str, Any], prompt_length: int) -> dict[str, Any]:
    return _qwen2(rng, config, prompt_length) | {"attention_bias": bool(rng.integers(2))}


def _window(rng: np.random.Generator, prompt_length: int) -> int | None:
    """Choose no window, or one that some, all or none of the tokens outgrow."""
    if rng.integers(3) == 0:
        return None
    return int(rng.integers(2, prompt_length + 10))


def _gpt2(rng: np.random.Generator, context: int) -> dict[str, Any]:
    heads = int(rng.integers(1, 5))
    return {
        "n_embd": heads * (-(-MIN_HIDDEN_SIZE // heads) + int(rng.integers(6))),
        "n_layer": int(rng.integers(1, 5)),
        "n_head": heads,
        "n_positions": context,
        "n_inner": [None, 7, 24][rng.integers(3)],
    }


def _gpt2_switches(
    rng: np.random.Generator, config: dict[str, Any], prompt_length: int
) -> dict[str, Any]:
    return {
        "activation_function": str(rng.choice(["gelu_new", "gelu", "gelu_pytorch_tanh"])),
        "layer_norm_epsilon": float(rng.choice([1e-5, 1e-2])),
        "scale_attn_weights": bool(rng.integers(4)),
        "scale_attn_by_inverse_layer_idx": bool(rng.integers(2)),
        "reorder_and_upcast_attn": bool(rng.integers(2)),
    }


_SWITCHES = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gpt2": _gpt2_switches,
}
