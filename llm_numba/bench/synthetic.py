"""Checkpoints with random weights, for what a small model is too small to show."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from llm_numba.models import parse_config
from llm_numba.models.llama import llama_tensors


def write_checkpoint(directory: Path, megabytes: float, seed: int = 0) -> int:
    """Write a bfloat16 Llama checkpoint without a tokenizer.

    Parameters
    ----------
    directory : Path
        An existing, empty directory.
    megabytes : float
        About how large, in 10^6 bytes; the number of layers is chosen for it.
    seed : int
        Of the random weights.

    Returns
    -------
    int
        The number of parameters.
    """
    config = {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_hidden_layers": 1,
        "vocab_size": 4096,
        "max_position_embeddings": 1024,
    }
    one, two = (_num_parameters(config | {"num_hidden_layers": n}) for n in (1, 2))
    layers = 1 + round((megabytes * 1e6 / 2 - one) / (two - one))
    config["num_hidden_layers"] = max(1, layers)
    (directory / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    shapes = llama_tensors(parse_config(config))
    tensors = {
        name: (0.02 * rng.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)
        for name, shape in shapes.items()
    }
    save_file(tensors, directory / "model.safetensors")
    return _num_parameters(config)


def _num_parameters(config: dict) -> int:
    return sum(int(np.prod(shape)) for shape in llama_tensors(parse_config(config)).values())
