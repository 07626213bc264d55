"""Random checkpoints as Transformers writes them, and what Transformers computes with them.

Shared by `make.py`, which freezes the result in fixtures, and by the live comparison in
`tests/parity`. Needs PyTorch and Transformers 4 or 5.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}

# Wide enough that attention is peaked and the logits spread: at the usual 0.02 every model is
# nearly uniform, and a wrong mask or rotation would hide below the tolerance. A weight is divided
# by the root of the hidden size, so that wider models are not chaotic instead.
WEIGHT_GAIN = 1.6
VECTOR_STD = 0.3

# Greedy tokens are compared only where the winner leads by this share of the largest logit.
# Two engines, each within 1e-4 of it, close at most 2e-4 of the lead.
MARGIN = 1e-3


@dataclass(frozen=True)
class Reference:
    """What Transformers computes in float32 for one prompt.

    Attributes
    ----------
    logits : ndarray, float32 [S + steps, V]
        One uncached pass over the prompt and the greedy tokens.
    greedy : list of int
        The continuation by `generate`, so through the KV cache.
    margin : float
        Smallest lead of a greedy token over the runner-up, as a share of the largest logit.
    noise : float
        Largest difference between cached and uncached logits, as a share of the largest logit.
    """

    logits: np.ndarray
    greedy: list[int]
    margin: float
    noise: float

    def is_decisive(self, num_distinct: int) -> bool:
        """Whether rounding cannot change a greedy token, and the text is no mere repetition."""
        return self.margin > MARGIN and len(set(self.greedy)) >= num_distinct


def empty_model(family: str, config: dict[str, Any]) -> PreTrainedModel:
    """Build the family's model from keyword arguments of its configuration."""
    model_class = getattr(transformers, FAMILIES[family])
    # Transformers writes into the nested RoPE dictionary that it is given.
    model_config = model_class.config_class(**copy.deepcopy(config))
    model_config._attn_implementation = "eager"
    return model_class(model_config).eval()


def random_model(family: str, config: dict[str, Any], seed: int) -> PreTrainedModel:
    """Build a model whose every tensor is random, norms and biases too.

    Each tensor is drawn by NumPy from the seed and its own name, so that every release of
    PyTorch and Transformers gets the same weights.
    """
    model = empty_model(family, config)
    weight_std = WEIGHT_GAIN / model.config.hidden_size**0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            noise = rng.standard_normal(tuple(parameter.shape), dtype=np.float32)
            is_matrix = parameter.ndim == 2
            is_scale = not is_matrix and name.endswith("weight")
            values = noise * (weight_std if is_matrix else VECTOR_STD) + float(is_scale)
            parameter.copy_(torch.from_numpy(values))
    return model


def save(model: PreTrainedModel, directory: Path, storage: str, shard_size: str | None) -> None:
    """Write the model in the Hugging Face layout, its weights rounded to `storage`."""
    model.to(getattr(torch, storage)).save_pretrained(
        directory, max_shard_size=shard_size or "1GB", safe_serialization=True
    )


def load(directory: Path) -> PreTrainedModel:
    """Load the stored weights in float32, with the plain (eager) attention."""
    is_old = tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 56)
    model, report = AutoModelForCausalLM.from_pretrained(
        directory,
        attn_implementation="eager",
        output_loading_info=True,
        **{"torch_dtype" if is_old else "dtype": torch.float32},
    )
    if report["missing_keys"] or report["mismatched_keys"]:
        raise RuntimeError(f"{directory} does not hold the whole model: {report}")
    # A full list of ids is wanted, so no end-of-text id may stop `generate`.
    model.generation_config = GenerationConfig()
    return model.eval()


def logits(model: PreTrainedModel, token_ids: list[int]) -> np.ndarray:
    """Logits of one uncached pass, float32 [S, V]."""
    with torch.no_grad():
        return model(torch.tensor([token_ids]), use_cache=False).logits[0].numpy()


def reference(model: PreTrainedModel, prompt: list[int], steps: int, **options: Any) -> Reference:
    """Decode greedily with the KV cache, then check it by one uncached pass.

    Parameters
    ----------
    model : PreTrainedModel
        A model from `load`.
    prompt : list of int
    steps : int
        Greedy tokens to generate.
    **options
        Passed on to `generate`, for example `repetition_penalty`. The margin is then that of
        the processed scores.
    """
    run = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=steps,
        pad_token_id=0,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    greedy = run.sequences[0, len(prompt) :].tolist()
    uncached = logits(model, prompt + greedy)
    largest = float(np.abs(uncached).max())
    cached = torch.cat(run.logits).numpy()
    noise = float(np.abs(cached - uncached[len(prompt) - 1 : -1]).max()) / largest
    best = torch.cat(run.scores).topk(2).values.numpy()
    margin = float((best[:, 0] - best[:, 1]).min()) / largest
    return Reference(uncached, greedy, margin, noise)


def random_prompt(vocab_size: int, length: int, seed: int) -> list[int]:
    """Draw `length` token ids."""
    return np.random.default_rng(seed).integers(vocab_size, size=length).tolist()
