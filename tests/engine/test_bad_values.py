"""Values of a wrong type or size: an error of ours that names them, never one of Python's."""

import numpy as np
import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.errors import EngineError, PromptError, SamplingParamsError, TokenizerError


@pytest.mark.parametrize("field", ["n", "top_k", "max_tokens", "logprobs"])
def test_a_whole_number_may_be_larger_than_a_float_holds(field):
    assert getattr(SamplingParams(**{field: 10**400}), field) == 10**400


def test_a_top_k_beyond_every_vocabulary_is_off(tiny_llm: LLM):
    fields = {"seed": 1, "max_tokens": 6, "ignore_eos": True}
    chosen = [
        tiny_llm.generate("ab", SamplingParams(top_k=k, **fields))[0].outputs[0].token_ids
        for k in (0, 10**400)
    ]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop", 5),
        ("stop", 0),
        ("stop", False),
        ("stop_token_ids", 5),
        ("stop_token_ids", "ab"),
        ("ignore_eos", "no"),
        ("ignore_eos", None),
        ("ignore_eos", 1),
    ],
)
def test_a_stopping_field_of_the_wrong_type_is_named(field, value):
    with pytest.raises(SamplingParamsError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.cause == f"{field}={value!r} is out of range."


@pytest.mark.parametrize("temperature", [1e-36, 1e-39, 1e-60, 5e-324])
def test_a_temperature_next_to_nothing_is_greedy(tiny_llm: LLM, temperature):
    params = SamplingParams(temperature=temperature, seed=1, max_tokens=6, ignore_eos=True)
    greedy = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    assert tiny_llm.generate("ab", params)[0].outputs[0].token_ids == (
        tiny_llm.generate("ab", greedy)[0].outputs[0].token_ids
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1e39},
        {"temperature": 10**400},
        {"seed": 10**400},
        {"repetition_penalty": 1e39},
        {"repetition_penalty": 1e-60},
    ],
)
def test_a_value_that_float32_cannot_hold_is_refused(fields):
    with pytest.raises(SamplingParamsError):
        SamplingParams(**fields)


@pytest.mark.parametrize(
    "prompts", [5, [None], [1.5, 2], [1, "a"], [["a"]], [b"bytes"], {"prompt": "a"}]
)
def test_a_prompt_of_the_wrong_type_is_refused(tiny_llm: LLM, prompts):
    with pytest.raises(PromptError):
        tiny_llm.generate(prompts)


def test_an_array_of_token_ids_is_a_prompt(tiny_llm: LLM):
    params = SamplingParams(temperature=0.0, max_tokens=2)
    assert tiny_llm.generate(np.array([1, 2]), params)[0].prompt_token_ids == [1, 2]


def test_text_with_half_a_surrogate_pair_is_refused(tiny_llm: LLM):
    """What Python makes of bytes in the command line that are not UTF-8."""
    with pytest.raises(PromptError):
        tiny_llm.generate("\udcff")
    with pytest.raises(PromptError):
        tiny_llm.chat([{"role": "user", "content": "\udcff"}])


@pytest.mark.parametrize("messages", ["hello", [5], [{"role": "user"}], []])
def test_a_conversation_that_is_no_list_of_messages_is_refused(tiny_llm: LLM, messages):
    with pytest.raises(PromptError):
        tiny_llm.chat(messages, SamplingParams(max_tokens=1))


def test_params_of_the_wrong_type_are_refused(tiny_llm: LLM):
    with pytest.raises(SamplingParamsError):
        tiny_llm.generate("a", {"temperature": 0})


@pytest.mark.parametrize("name", ["block_size", "num_blocks", "max_num_seqs", "max_model_len"])
@pytest.mark.parametrize("value", ["16", 16.0, True])
def test_an_engine_option_of_the_wrong_type_is_named(new_llm, name, value):
    with pytest.raises(EngineError, match=name):
        new_llm(**{name: value})


def test_a_stop_string_without_a_tokenizer_is_refused(tiny_checkpoint):
    """Without text it could never be found."""
    directory = tiny_checkpoint()
    (directory / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        LLM(directory).generate([1, 2], SamplingParams(stop="end"))
