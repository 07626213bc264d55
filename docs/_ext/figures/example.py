"""The running example of the walkthrough: one prompt, and the bundled model."""

from functools import cache

import numpy as np

from llm_numba import LLM
from llm_numba.models import load_model, open_model

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
