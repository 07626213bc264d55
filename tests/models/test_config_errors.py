"""A `config.json` that cannot be used: the error names the file, the key and what would do."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llm_numba.errors import ConfigError
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
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 100,
}
SUPPORTED = (
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)


def refusal(raw: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, "some/config.json")
    assert caught.value.cause.startswith("some/config.json: ")
    assert caught.value.cause.endswith(".")
    assert caught.value.remedy.endswith(".")
    return caught.value


@pytest.mark.parametrize(
    ("raw", "key"), [(raw, key) for raw in (LLAMA, GPT2) for key in raw if key != "architectures"]
)
def test_a_missing_size_is_named(raw, key):
    error = refusal({k: v for k, v in raw.items() if k != key})
    assert f"'{key}' is missing" in error.cause


@pytest.mark.parametrize(
    ("raw", "key"), [(raw, key) for raw in (LLAMA, GPT2) for key in raw if key != "architectures"]
)
@pytest.mark.parametrize("value", ["64", 64.0, True, [64]])
def test_a_size_that_is_no_integer_is_shown(raw, key, value):
    error = refusal({**raw, key: value})
    assert f"'{key}' is {value!r}, not of type int" in error.cause


@pytest.mark.parametrize(
    ("raw", "key"), [(raw, key) for raw in (LLAMA, GPT2) for key in raw if key != "architectures"]
)
def test_a_size_beyond_all_models_is_refused_before_anything_is_made_of_it(raw, key):
    """Layers are listed one by one, and a width becomes a float: 2^40 would fill the memory."""
    for value in (2**40, 10**400):
        error = refusal({**raw, key: value})
        assert f"'{key}' is {value}, and" in error.cause


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_a_whole_number_that_no_float_holds_is_refused(key):
    error = refusal({**LLAMA, key: 10**400})
    assert f"'{key}' is inf, not a positive number" in error.cause


@pytest.mark.parametrize("value", [0, -1])
def test_a_size_that_is_not_positive_is_shown(value):
    error = refusal({**LLAMA, "num_hidden_layers": value})
    assert f"'num_hidden_layers' is {value}, not a positive number" in error.cause


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("rms_norm_eps", "1e-6", "float"),
        ("rms_norm_eps", True, "float"),
        ("rope_theta", [10000], "float"),
        ("tie_word_embeddings", 1, "bool"),
        ("attention_bias", "yes", "bool"),
        ("hidden_act", 3, "str"),
        ("rope_scaling", "linear", "dict"),
        ("rope_parameters", [1], "dict"),
        ("layer_types", "full_attention", "list"),
        ("dtype", 16, "str"),
        ("torch_dtype", ["float16"], "str"),
        ("bos_token_id", "1", "int"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_with_the_right_one(key, value, kind):
    error = refusal({**LLAMA, key: value})
    assert f"'{key}' is {value!r}, not of type {kind}" in error.cause


@pytest.mark.parametrize(
    "spelling",
    [{"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}],
)
def test_a_partial_rotary_factor_is_refused_because_these_families_turn_whole_heads(spelling):
    assert "'partial_rotary_factor' is 0.5" in refusal({**LLAMA, **spelling}).cause


@pytest.mark.parametrize(
    "architectures",
    [None, [], ["T5ForConditionalGeneration"], "Llama", 5, [["LlamaForCausalLM"]], {"a": 1}],
)
def test_an_unsupported_architecture_lists_the_supported_ones(architectures):
    error = refusal({**LLAMA, "architectures": architectures})
    assert "is not supported" in error.cause
    for name in SUPPORTED:
        assert name in error.remedy


def test_an_unsupported_architecture_is_named():
    assert "'BertModel'" in refusal({**LLAMA, "architectures": ["BertModel"]}).cause


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"rope_type": "mrope", "factor": 4.0}},
        {"rope_scaling": {"type": "mrope", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4, "factor": 4.0}},
    ],
)
def test_an_unsupported_rope_variant_lists_the_supported_ones(rope):
    error = refusal({**LLAMA, **rope})
    assert "RoPE variant 'mrope' is not supported" in error.cause
    assert error.remedy == "Supported are: default, linear, dynamic, llama3, yarn, longrope."


def test_rope_per_layer_type_is_refused():
    per_type = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert "'per layer type'" in refusal({**LLAMA, "rope_parameters": per_type}).cause


@pytest.mark.parametrize(
    "missing",
    ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
)
def test_a_missing_value_of_llama3_scaling_is_named(missing):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    del scaling[missing]
    assert f"'{missing}' is missing" in refusal({**LLAMA, "rope_scaling": scaling}).cause


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_a_scaling_needs_its_factor(kind):
    assert "'factor' is missing" in refusal({**LLAMA, "rope_scaling": {"type": kind}}).cause


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
@pytest.mark.parametrize("factor", [1e308, 10**400])
def test_a_scaling_beyond_all_contexts_is_refused(kind, factor):
    """Of dynamic and yarn it is multiplied with the context, and becomes a whole number."""
    error = refusal({**LLAMA, "rope_scaling": {"type": kind, "factor": factor}})
    assert "'factor' is" in error.cause


def test_longrope_of_a_context_of_one_token_is_refused():
    """Its attention factor would be divided by log 1."""
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 1,
    }
    error = refusal({**LLAMA, "head_dim": 16, "rope_scaling": scaling})
    assert "'original_max_position_embeddings' is 1" in error.cause
    assert parse_config(
        {**LLAMA, "head_dim": 16, "rope_scaling": {**scaling, "attention_factor": 1.0}}
    )


def test_longrope_needs_a_factor_for_each_frequency():
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 7}
    error = refusal({**LLAMA, "head_dim": 16, "rope_scaling": scaling})
    assert "'long_factor' has 7 values for 8 frequencies" in error.cause
    del scaling["short_factor"]
    error = refusal({**LLAMA, "head_dim": 16, "rope_scaling": scaling})
    assert "'short_factor' is missing" in error.cause


@pytest.mark.parametrize(
    "raw", [{**LLAMA, "hidden_act": "relu6"}, {**GPT2} | {"activation_function": "relu6"}]
)
def test_an_unsupported_activation_lists_the_supported_ones(raw):
    error = refusal(raw)
    assert "activation 'relu6' is not supported" in error.cause
    assert "silu" in error.remedy
    assert "gelu_new" in error.remedy


def test_a_llama_whose_gate_is_not_silu_is_refused():
    assert "'hidden_act' is 'gelu'" in refusal({**LLAMA, "hidden_act": "gelu"}).cause


@pytest.mark.parametrize(
    "kinds",
    [["full_attention"], ["full_attention"] * 3, ["full_attention", "chunked_attention"], []],
)
def test_layer_types_must_name_a_known_kind_for_each_layer(kinds):
    error = refusal({**LLAMA, "layer_types": kinds})
    assert "'layer_types' does not give one of full_attention, sliding_attention" in error.cause
    assert "each of the 2 layers" in error.cause


@pytest.mark.parametrize("value", ["</s>", 2.0, True, [2, "3"], [None]])
def test_an_end_token_that_is_no_id_is_shown(value):
    assert (
        f"'eos_token_id' is {value!r}, no token id"
        in refusal({**LLAMA, "eos_token_id": value}).cause
    )


def test_kv_heads_must_divide_query_heads():
    error = refusal({**LLAMA, "num_key_value_heads": 3})
    assert "4 query heads cannot share 3 KV heads evenly" in error.cause


def test_a_directory_without_config_json_is_told_apart(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: No such file"):
        load_config(tmp_path)


def test_a_config_json_that_is_a_directory_is_told_apart(tmp_path: Path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: Is a directory"):
        load_config(tmp_path)


def test_nobody_waits_for_what_a_pipe_may_bring(tmp_path: Path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"config\.json is no file but a pipe or a device"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b'{"hidden_size": }', "is not valid JSON: Expecting value: line 1"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b"[1, 2]", "holds no JSON object"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
    ids=["empty", "syntax", "not UTF-8", "no object", "nested without end"],
)
def test_a_config_json_that_cannot_be_parsed_is_named(tmp_path: Path, content, said):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert caught.value.cause.startswith(f"{path} {said}")


def test_the_error_of_a_file_names_that_file(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "vocab_size": "many"}))
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert caught.value.cause == f"{path}: 'vocab_size' is 'many', not of type int."


# -- Values that no model can be computed with ---------------------------------------------------


def test_layer_types_of_a_strange_type_are_refused():
    with pytest.raises(ConfigError, match="layer_types"):
        parse_config({**LLAMA, "layer_types": [[], []]})


@pytest.mark.parametrize("heads", [4, 64])
def test_gpt2_whose_heads_do_not_divide_the_hidden_size_is_refused(heads):
    with pytest.raises(ConfigError, match=r"n_embd.*n_head"):
        parse_config({**GPT2, "n_embd": 30, "n_head": heads})


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
        {"rope_scaling": {"type": "dynamic", "factor": -2.0}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 1.0, "beta_slow": 1.0}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 0.0}},
        {
            "head_dim": 4,
            "rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": [1, "2"]},
        },
        {
            "head_dim": 4,
            "rope_scaling": {"type": "longrope", "short_factor": [1, 0], "long_factor": [1, 2]},
        },
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
