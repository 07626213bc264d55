"""`generation_config.json`: where answers end, and the makers' sampling defaults."""

import json
from pathlib import Path

import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.errors import ConfigError, SamplingParamsError
from llm_numba.models import load_config, load_generation_config


@pytest.fixture
def read(tiny_checkpoint):
    """Read a generation_config.json beside a config.json whose end token is 257."""

    def read(content: dict):
        directory = tiny_checkpoint()
        (directory / "generation_config.json").write_text(json.dumps(content))
        return load_generation_config(directory, load_config(directory))

    return read


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ({"eos_token_id": [257, 260]}, {257, 260}),
        ({"eos_token_id": 260}, {260}),
        ({"eos_token_id": None}, {257}),
        ({}, {257}),
    ],
    ids=["several", "one", "null: that of config.json", "left out: that of config.json"],
)
def test_answers_end_at_any_of_the_end_tokens(read, content, ids):
    assert read(content).eos_token_ids == ids


def test_without_the_file_config_json_alone_counts(tiny_checkpoint):
    directory = tiny_checkpoint(eos_token_id=[3, 4])
    (directory / "generation_config.json").unlink()
    defaults = load_generation_config(directory, load_config(directory))
    assert defaults.eos_token_ids == {3, 4}
    assert defaults.sampling == {}


def test_sampling_values_are_read_and_others_are_not(read):
    values = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
    }
    others = {"max_length": 20, "transformers_version": "5.0", "pad_token_id": 0, "do_sample": True}
    assert read({**values, **others}).sampling == values


def test_values_that_are_null_are_left_out(read):
    assert read({"temperature": None, "top_p": 0.9}).sampling == {"top_p": 0.9}


def test_a_model_that_is_not_to_be_sampled_is_greedy(read):
    assert read({"do_sample": False, "temperature": 0.7}).sampling["temperature"] == 0.0


def test_the_defaults_become_sampling_params_that_a_call_may_change(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "top_k": 7}))
    llm = LLM(directory)
    assert llm.default_sampling_params() == SamplingParams(temperature=0.5, top_k=7)
    assert llm.default_sampling_params(top_k=0, n=2) == SamplingParams(temperature=0.5, n=2)


def test_generate_without_params_uses_the_defaults(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    llm = LLM(directory)
    by_default = llm.generate("abc")[0].outputs[0]
    assert by_default.token_ids == (
        llm.generate("abc", SamplingParams(temperature=0.0))[0].outputs[0].token_ids
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"eos_token_id": "</s>"}, "'eos_token_id' is '</s>', no token id"),
        ({"temperature": "hot"}, "'temperature' is 'hot', not of type float"),
        ({"top_k": 5.5}, "'top_k' is 5.5, not of type int"),
        ({"do_sample": 0}, "'do_sample' is 0, not of type bool"),
    ],
)
def test_a_malformed_value_is_named_with_its_file(read, content, said):
    with pytest.raises(ConfigError) as caught:
        read(content)
    assert "generation_config.json: " in caught.value.cause
    assert said in caught.value.cause


def test_a_file_that_is_no_json_is_named(tiny_checkpoint):
    path: Path = tiny_checkpoint() / "generation_config.json"
    path.write_text("{")
    with pytest.raises(ConfigError) as caught:
        LLM(path.parent)
    assert caught.value.cause.startswith(f"{path} is not valid JSON")


def test_a_default_out_of_range_is_named_when_it_is_used(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "generation_config.json").write_text(json.dumps({"temperature": -1.0}))
    llm = LLM(directory)
    with pytest.raises(SamplingParamsError, match=r"temperature=-1\.0"):
        llm.generate("abc")
    assert len(llm.generate("abc", SamplingParams(max_tokens=1))) == 1
