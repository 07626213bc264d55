"""A model cut on paper: every parameter is somewhere, and only what must be is there twice."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_numba.errors import ConfigError, ParallelError
from llm_numba.models import tensor_shapes
from llm_numba.planner import cut

from .conftest import shape


def parameters(config):
    return {name: math.prod(dims) for name, dims in tensor_shapes(config).items()}


def test_a_model_on_one_gpu_is_whole():
    for name in ("gpt2", "llama-3.2-1b", "llama-3-70b", "qwen3-0.6b"):
        config = shape(name)
        assert cut(config).rank(0, 0).num_parameters == sum(parameters(config).values())
        assert cut(config).rank(0, 0).config == config


def replicated(config, tp, pp):
    """What more there is in all ranks than in the model: norms, KV heads, a tied LM head."""
    extra = 0
    for name, count in parameters(config).items():
        if "norm" in name or re.search(r"\bln_", name):
            extra += (tp - 1) * count
        if re.search(r"[kv]_proj", name):
            extra += (max(tp, config.num_kv_heads) // config.num_kv_heads - 1) * count
    if config.tie_word_embeddings and pp > 1:
        extra += config.vocab_size * config.hidden_size
    return extra


@given(
    st.sampled_from(["gpt2", "llama-3.2-1b", "llama-3-8b", "llama-2-13b", "qwen3-0.6b"]),
    st.sampled_from([1, 2, 3, 4, 5, 8, 12, 16, 32]),
    st.integers(1, 12),
)
def test_all_ranks_hold_the_model_and_what_is_replicated(name, tp, pp):
    config = shape(name)
    try:
        split = cut(config, tp, pp)
    except ConfigError:
        assert (
            config.num_heads % tp
            or config.intermediate_size % tp
            or (config.num_kv_heads % tp and tp % config.num_kv_heads)
        )
        return
    held = [split.rank(stage, p).num_parameters for stage in range(pp) for p in range(tp)]
    assert sum(held) == sum(parameters(config).values()) + replicated(config, tp, pp)
    for stage, (first, last) in enumerate(split.outermost):
        most = max(held[stage * tp : (stage + 1) * tp])
        assert most == max(first.num_parameters, last.num_parameters)


def test_a_rank_of_70b_is_a_smaller_model():
    split = cut(shape("llama-3-70b"), tp=8, pp=4)
    assert split.num_gpus == 32
    rank = split.rank(1, 3)
    part = rank.config
    assert (part.num_heads, part.num_kv_heads, part.intermediate_size) == (8, 1, 3584)
    # E x (q, k, v, o) + 3 E F, and two norms, by hand.
    layer = 8192 * (1024 + 128 + 128 + 1024) + 3 * 8192 * 3584 + 2 * 8192
    assert rank.num_parameters == part.num_layers * layer
    assert part.vocab_size == 0
    assert split.rank(3, 0).config.vocab_size == 128256


def test_more_tensor_ranks_than_kv_heads_hold_copies():
    split = cut(shape("llama-3-70b"), tp=32)
    assert split.rank(0, 0).config.num_kv_heads == 1
    assert split.rank(0, 0).config.num_heads == 2


def test_stages_with_the_embedding_or_the_head_have_fewer_layers():
    stages = cut(shape("llama-3-70b"), pp=4).stages
    assert [len(each) for each in stages] == [19, 21, 21, 19]


@pytest.mark.parametrize(
    ("tp", "pp", "error", "words"),
    [
        (3, 1, ConfigError, "query heads"),
        (0, 1, ParallelError, "tp=0"),
        (1, -2, ParallelError, "pp=-2"),
        (1, 33, ParallelError, "33"),
    ],
)
def test_what_does_not_divide_is_refused(tp, pp, error, words):
    with pytest.raises(error, match=re.escape(words)):
        cut(shape("llama-3-8b"), tp, pp)
