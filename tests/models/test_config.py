"""`config.json` of every family, in the spelling of Transformers 4 and of Transformers 5.

The defaults below are those of the configuration classes of Transformers 4.57 and 5.23.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_numba.models import load_config, parse_config
from llm_numba.ops import RopeScaling

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 32,
    "vocab_size": 100,
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "vocab_size": 100,
}
LLAMA_LIKE = ("Llama", "Mistral", "Qwen2", "Qwen3")


def raw(family: str, **changes: Any) -> dict[str, Any]:
    """Return the least that a configuration of the family must hold, and changes to it."""
    least = GPT2 if family == "GPT2" else {"architectures": [f"{family}ForCausalLM"], **SIZES}
    return {**least, **changes}


@pytest.mark.parametrize(
    ("family", "defaults"),
    [
        ("Llama", {"max_position_embeddings": 2048, "num_kv_heads": 32, "head_dim": 2}),
        (
            "Mistral",
            {
                "max_position_embeddings": 131072,
                "num_kv_heads": 8,
                "head_dim": 2,
                "windows": (4096, 4096, 4096),
            },
        ),
        (
            "Qwen2",
            {
                "max_position_embeddings": 32768,
                "num_kv_heads": 32,
                "head_dim": 2,
                "qkv_bias": True,
            },
        ),
        (
            "Qwen3",
            {
                "max_position_embeddings": 32768,
                "num_kv_heads": 32,
                "head_dim": 128,
                "qk_norm": True,
            },
        ),
    ],
)
def test_values_left_out_take_the_defaults_that_transformers_gives_the_family(family, defaults):
    config = parse_config(raw(family))
    expected = {
        "architecture": f"{family}ForCausalLM",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_layers": 3,
        "num_heads": 32,
        "norm_eps": 1e-6,
        "activation": "silu",
        "tie_word_embeddings": False,
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
        "rope_theta": 10000.0,
        "rope_scaling": RopeScaling(),
        "windows": (None, None, None),
        "dtype": "float32",
    } | defaults
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.attention_scales == (config.head_dim**-0.5,) * 3


def test_gpt2_takes_its_own_defaults():
    config = parse_config(raw("GPT2"))
    expected = {
        "intermediate_size": 4 * 64,
        "num_kv_heads": 4,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "norm_eps": 1e-5,
        "activation": "gelu_tanh",
        "tie_word_embeddings": True,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "windows": (None, None, None),
        "attention_scales": (0.25, 0.25, 0.25),
    }
    assert {name: getattr(config, name) for name in expected} == expected


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("family", LLAMA_LIKE)
@pytest.mark.parametrize(
    ("transformers_4", "transformers_5", "scaling"),
    [
        (
            {"rope_theta": 5e5, "rope_scaling": None, "torch_dtype": "bfloat16"},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "dtype": "bfloat16"},
            RopeScaling(),
        ),
        (
            {
                "rope_theta": 5e5,
                "rope_scaling": {"type": "linear", "factor": 2},
                "torch_dtype": "bfloat16",
            },
            {
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
                "dtype": "bfloat16",
            },
            RopeScaling(kind="linear", factor=2.0),
        ),
        (
            {
                "rope_theta": 500000,
                "rope_scaling": {"rope_type": "llama3", **LLAMA3},
                "torch_dtype": "bfloat16",
            },
            {
                "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3},
                "dtype": "bfloat16",
            },
            RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        ),
    ],
    ids=["default", "linear", "llama3"],
)
def test_both_spellings_of_rope_and_dtype_mean_the_same(
    family, transformers_4, transformers_5, scaling
):
    older = parse_config(raw(family, **transformers_4))
    newer = parse_config(raw(family, **transformers_5))
    assert older == newer
    assert older.rope_theta == 500000.0
    assert older.rope_scaling == scaling
    assert older.dtype == "bfloat16"


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LONGROPE = {"rope_type": "longrope", "short_factor": [1, 1.5], "long_factor": [2.0, 8.0]}


@pytest.mark.parametrize(
    ("keys", "scaling", "longest"),
    [
        (
            {"rope_scaling": {"type": "dynamic", "factor": 3.0}},
            RopeScaling("dynamic", 3.0, original_context=2048),
            6144,
        ),
        (
            {"rope_parameters": YARN},
            RopeScaling("yarn", 4.0, original_context=512),
            2048,
        ),
        (  # as the models that are to be stretched by hand say it
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            RopeScaling("yarn", 4.0, original_context=2048),
            8192,
        ),
        (
            {
                "rope_scaling": {
                    **YARN, "beta_fast": 16, "beta_slow": None, "truncate": False,
                    "attention_factor": 1.5, "mscale": 0.7, "mscale_all_dim": 1,
                }
            },
            RopeScaling(
                "yarn", 4.0, original_context=512, beta_fast=16.0, truncate=False,
                attention_factor=1.5, mscale=0.7, mscale_all_dim=1.0,
            ),
            2048,
        ),
        (
            {"original_max_position_embeddings": 512, "rope_scaling": LONGROPE},
            RopeScaling(
                "longrope", 4.0, original_context=512,
                short_factors=(1.0, 1.5), long_factors=(2.0, 8.0),
            ),
            2048,
        ),
        (
            {"rope_parameters": {**LONGROPE, "factor": 2.0, "attention_factor": 1.1}},
            RopeScaling(
                "longrope", 2.0, original_context=2048, attention_factor=1.1,
                short_factors=(1.0, 1.5), long_factors=(2.0, 8.0),
            ),
            2048,
        ),
    ],
    ids=["dynamic", "yarn", "yarn by hand", "yarn in full", "longrope", "longrope in full"],
)  # fmt: skip
def test_each_scaling_brings_what_it_needs(keys, scaling, longest):
    config = parse_config(raw("Llama", head_dim=4, max_position_embeddings=2048, **keys))
    assert config.rope_scaling == scaling
    # What is asked for may be longer than what is taken without asking.
    assert (config.max_position_embeddings, config.longest_context) == (2048, longest)


def test_where_both_spellings_are_there_the_newer_counts():
    config = parse_config(
        raw(
            "Llama",
            rope_theta=1e4,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5},
            torch_dtype="float32",
            dtype="float16",
        )
    )
    assert (config.rope_theta, config.dtype) == (5e5, "float16")


@pytest.mark.parametrize("family", ["Mistral", "Qwen2"])
def test_null_kv_heads_are_as_many_as_query_heads_whatever_the_family_defaults_to(family):
    config = parse_config(raw(family, num_attention_heads=16, num_key_value_heads=None))
    assert (config.num_heads, config.num_kv_heads) == (16, 16)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_without_architectures_the_model_type_names_the_family(model_type):
    least = {**SIZES, "model_type": model_type}
    assert parse_config(least).architecture.lower() == f"{model_type}forcausallm"


def test_head_dim_need_not_be_hidden_size_over_heads():
    config = parse_config(raw("Llama", head_dim=24))
    assert config.head_dim == 24
    assert config.attention_scales == (24**-0.5,) * 3


@pytest.mark.parametrize(
    ("family", "key", "switches"),
    [
        ("Llama", "attention_bias", {"qkv_bias": True, "out_bias": True, "mlp_bias": False}),
        ("Llama", "mlp_bias", {"qkv_bias": False, "out_bias": False, "mlp_bias": True}),
        ("Qwen3", "attention_bias", {"qkv_bias": True, "out_bias": True, "mlp_bias": False}),
    ],
)
def test_biases_are_switched_on_where_the_family_has_the_switch(family, key, switches):
    config = parse_config(raw(family, **{key: True}))
    assert {name: getattr(config, name) for name in switches} == switches


def test_qwen2_has_biases_on_query_key_and_value_alone():
    config = parse_config(raw("Qwen2"))
    assert (config.qkv_bias, config.out_bias, config.mlp_bias) == (True, False, False)


@pytest.mark.parametrize(
    ("family", "keys", "windows"),
    [
        ("Mistral", {"sliding_window": None}, (None, None, None)),
        ("Mistral", {"sliding_window": 7}, (7, 7, 7)),
        ("Llama", {"sliding_window": 7}, (None, None, None)),
        ("Qwen2", {"sliding_window": 7}, (None, None, None)),
        ("Qwen2", {"sliding_window": 7, "use_sliding_window": True}, (None, None, None)),
        (
            "Qwen2",
            {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 2},
            (None, None, 7),
        ),
        ("Qwen3", {"use_sliding_window": True, "max_window_layers": 0}, (4096, 4096, 4096)),
        (
            "Qwen3",
            {
                "sliding_window": 7,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            (7, None, 7),
        ),
    ],
)
def test_sliding_windows_fall_on_the_layers_that_the_family_gives_them(family, keys, windows):
    assert parse_config(raw(family, **keys)).windows == windows


@pytest.mark.parametrize(
    ("keys", "scales"),
    [
        ({"scale_attn_weights": False}, (1.0, 1.0, 1.0)),
        ({"scale_attn_by_inverse_layer_idx": True}, (0.25, 0.25 / 2, 0.25 / 3)),
        (
            {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
            (1.0, 1 / 2, 1 / 3),
        ),
    ],
)
def test_gpt2_scales_attention_as_its_two_switches_say(keys, scales):
    assert parse_config(raw("GPT2", **keys)).attention_scales == scales


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("gelu", "gelu"),
        ("silu", "silu"),
        ("swish", "silu"),
    ],
)
def test_every_name_of_an_activation_is_known(name, activation):
    assert parse_config(raw("GPT2", activation_function=name)).activation == activation


@pytest.mark.parametrize("value", [7, None])
def test_gpt2s_inner_size_is_its_own_or_four_times_the_hidden_size(value):
    assert parse_config(raw("GPT2", n_inner=value)).intermediate_size == (value or 256)


@pytest.mark.parametrize(("value", "ids"), [(None, ()), (2, (2,)), ([2, 5], (2, 5))])
def test_one_end_token_or_several_are_read(value, ids):
    assert parse_config(raw("Llama", eos_token_id=value)).eos_token_ids == ids


def test_whole_numbers_will_do_where_a_float_is_expected():
    config = parse_config(raw("Llama", rms_norm_eps=1, rope_theta=10000))
    assert isinstance(config.norm_eps, float)
    assert isinstance(config.rope_theta, float)


def test_load_config_reads_the_file_of_a_directory(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(raw("Llama")))
    assert load_config(tmp_path) == parse_config(raw("Llama"))
