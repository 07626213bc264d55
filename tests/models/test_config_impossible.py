"""Values in `config.json` that no model can be computed with."""

import pytest

from llm_numba import LLM
from llm_numba.errors import ConfigError, ModelNotFoundError
from llm_numba.models import load_config, parse_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 30,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 100,
}


def test_layer_types_of_a_strange_type_are_refused():
    with pytest.raises(ConfigError, match="layer_types"):
        parse_config({**LLAMA, "layer_types": [[], []]})


@pytest.mark.parametrize("heads", [4, 64])
def test_gpt2_whose_heads_do_not_divide_the_hidden_size_is_refused(heads):
    with pytest.raises(ConfigError, match=r"n_embd.*n_head"):
        parse_config({**GPT2, "n_head": heads})


@pytest.mark.parametrize(
    "changes",
    [
        {"partial_rotary_factor": 0.0},
        {"partial_rotary_factor": 2.0},
        {"partial_rotary_factor": -1.0},
        {"head_dim": 7},
        {"rope_theta": 0},
        {"rope_theta": -1.0},
        {"rope_theta": float("nan")},
        {"rope_theta": float("inf")},
        {"rope_scaling": {"type": "linear", "factor": 0}},
        {"rms_norm_eps": float("nan")},
        {"rms_norm_eps": -1.0},
        {"architectures": ["MistralForCausalLM"], "sliding_window": 0, "num_key_value_heads": 2},
        {"architectures": ["MistralForCausalLM"], "sliding_window": -1, "num_key_value_heads": 2},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        },
    ],
    ids=str,
)
def test_a_value_that_no_model_can_be_computed_with_is_refused(changes):
    with pytest.raises(ConfigError):
        parse_config({**LLAMA, **changes})


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_a_null_window_is_none_even_where_windows_are_used(family):
    """So Transformers 4.57 and 5.23 read it."""
    raw = {
        **LLAMA,
        "architectures": [f"{family}ForCausalLM"],
        "num_key_value_heads": 4,
        "use_sliding_window": True,
        "sliding_window": None,
        "max_window_layers": 0,
    }
    assert parse_config(raw).windows == (None, None)


def test_a_number_of_too_many_digits_is_no_traceback(tiny_checkpoint):
    path = tiny_checkpoint() / "config.json"
    path.write_text('{"hidden_size": ' + "9" * 5000 + "}")
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_config(path.parent)


@pytest.mark.parametrize("name", ["~nosuchuserx/model", "~nosuchuserx"])
def test_the_home_of_nobody_is_no_model(name):
    with pytest.raises(ModelNotFoundError):
        LLM(name)


def test_an_empty_name_is_no_model():
    with pytest.raises(ModelNotFoundError):
        LLM("")
