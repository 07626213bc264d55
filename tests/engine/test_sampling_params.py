"""`SamplingParams` refuses what is out of range and names the field and the range."""

import dataclasses
import math

import pytest

from llm_numba import SamplingParams
from llm_numba.errors import LLMNumbaError, SamplingParamsError

RANGES = {
    "n": "n must be a whole number of at least 1.",
    "temperature": "temperature must be a number of at least 0 and at most 1000.",
    "top_k": "top_k must be a whole number of at least -1.",
    "top_p": "top_p must be a number above 0 and at most 1.",
    "min_p": "min_p must be a number of at least 0 and at most 1.",
    "repetition_penalty": "repetition_penalty must be a number of at least 0.001 and at most 1000.",
    "presence_penalty": "presence_penalty must be a number of at least -2 and at most 2.",
    "frequency_penalty": "frequency_penalty must be a number of at least -2 and at most 2.",
    "seed": f"seed must be a whole number of at least 0 and at most {2**64 - 1}.",
    "max_tokens": "max_tokens must be a whole number of at least 1.",
    "logprobs": "logprobs must be a whole number of at least 0.",
    "stop": "stop must be a non-empty string, or a list of them.",
    "stop_token_ids": "stop_token_ids must be a whole number of at least 0.",
}
OUTSIDE = {
    "n": [0, -1],
    "temperature": [-0.001, -1],
    "top_k": [-2],
    "top_p": [0, 0.0, -0.1, 1.001],
    "min_p": [-0.001, 1.001],
    "repetition_penalty": [0, 0.0, -1.0],
    "presence_penalty": [-2.001, 2.001],
    "frequency_penalty": [-2.001, 2.001],
    "seed": [-1, 2**64],
    "max_tokens": [0, -5],
    "logprobs": [-1],
}
WHOLE = ("n", "top_k", "seed", "max_tokens", "logprobs")
OPTIONAL = ("seed", "max_tokens", "logprobs")


def refusal(**fields) -> SamplingParamsError:
    with pytest.raises(SamplingParamsError) as caught:
        SamplingParams(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in OUTSIDE.items() for value in values]
)
def test_a_value_outside_its_range_is_named_with_the_range(field, value):
    error = refusal(**{field: value})
    assert error.cause == f"{field}={value!r} is out of range."
    assert error.remedy == RANGES[field]


@pytest.mark.parametrize("field", OUTSIDE)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", [1], 1j])
def test_what_is_no_number_is_refused_by_every_field(field, value):
    error = refusal(**{field: value})
    assert error.cause == f"{field}={value!r} is out of range."
    assert error.remedy == RANGES[field]


@pytest.mark.parametrize("field", WHOLE)
def test_a_fraction_is_no_whole_number(field):
    assert refusal(**{field: 2.0}).remedy == RANGES[field]


@pytest.mark.parametrize("field", [field for field in OUTSIDE if field not in OPTIONAL])
def test_none_is_no_value_where_none_has_no_meaning(field):
    assert refusal(**{field: None}).remedy == RANGES[field]


@pytest.mark.parametrize("field", OPTIONAL)
def test_none_is_a_value_where_it_has_a_meaning(field):
    assert getattr(SamplingParams(**{field: None}), field) is None


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("n", [1, 100]),
        ("temperature", [0, 0.0, 1, 2.5]),
        ("top_k", [-1, 0, 1, 10**6]),
        ("top_p", [1, 1.0, 0.001]),
        ("min_p", [0, 1, 0.5]),
        ("repetition_penalty", [0.5, 1, 2.0]),
        ("presence_penalty", [-2, 0, 2.0]),
        ("frequency_penalty", [-2.0, 0, 2]),
        ("seed", [0, 2**64 - 1]),
        ("max_tokens", [1, 10**9]),
        ("logprobs", [0, 5]),
        ("stop", ["end", ["a", "b"], [], None]),
        ("stop_token_ids", [[0, 5], [], None]),
    ],
)
def test_values_on_the_borders_of_the_range_are_taken(field, values):
    for value in values:
        assert getattr(SamplingParams(**{field: value}), field) == value


@pytest.mark.parametrize("value", ["", [""], ["a", ""], [None], ["a", 3], b"bytes"])
def test_a_stop_string_must_be_text_with_something_in_it(value):
    error = refusal(stop=value)
    assert error.cause == f"stop={value!r} is out of range."
    assert error.remedy == RANGES["stop"]


@pytest.mark.parametrize("value", [-1, 1.0, True, "a", None])
def test_a_stop_token_must_be_an_id(value):
    error = refusal(stop_token_ids=[3, value])
    assert error.cause == f"stop_token_ids={value!r} is out of range."
    assert error.remedy == RANGES["stop_token_ids"]


def test_several_greedy_samples_are_refused_for_they_would_be_equal():
    error = refusal(n=2, temperature=0)
    assert error.cause == "n=2 is out of range."
    assert "greedy samples are all equal" in error.remedy


def test_an_unknown_field_is_an_error():
    with pytest.raises(TypeError, match="max_new_tokens"):
        SamplingParams(max_new_tokens=5)


def test_the_error_can_be_caught_as_ours_or_as_a_value_error():
    assert isinstance(refusal(n=0), LLMNumbaError)
    assert isinstance(refusal(n=0), ValueError)


def test_params_cannot_be_changed_behind_the_engines_back():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = 0.0


def test_the_defaults_are_those_of_vllm():
    expected = {
        "n": 1,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": None,
        "stop": None,
        "stop_token_ids": None,
        "ignore_eos": False,
        "max_tokens": 16,
        "logprobs": None,
    }
    ours = {"priority": "interactive"}
    assert dataclasses.asdict(SamplingParams()) == expected | ours


def test_a_priority_that_is_none_is_refused_with_those_there_are():
    assert "interactive, batch" in refusal(priority="urgent").remedy


def test_greedy_means_temperature_zero():
    assert SamplingParams(temperature=0).greedy
    assert not SamplingParams(temperature=0.1).greedy


@pytest.mark.parametrize("field", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_any_penalty_makes_a_request_penalized(field):
    assert not SamplingParams().penalized
    assert SamplingParams(**{field: 1.5}).penalized
