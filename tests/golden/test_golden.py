"""The engine against logits and greedy tokens that Transformers computed; no PyTorch needed.

The fixtures are written by `make.py`. Two float32 programs that add in different orders never
agree to the last bit: on these models Transformers itself differs by a few 1e-6 of the largest
logit between its cached and its uncached pass (`noise` in the manifest). The tolerance of 1e-4
is above that on any machine, while a wrong mask, rotation, norm or bias moves the logits by
tenths (`effects`). Only the two GELUs lie near each other, 3e-4 apart. In float64 our rounding is
gone and only that of the reference is left, so there the bound is ten times tighter.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from llm_numba import LLM, SamplingParams

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
MANIFEST = json.loads((HERE / "manifest.json").read_text())
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
STEPS = 32

each_case = pytest.mark.parametrize("case", MANIFEST, ids=lambda case: case["name"])


@cache
def engine(name: str, dtype: str = "float32") -> LLM:
    return LLM(str(FIXTURES / name), device="cpu", dtype=dtype)


def stored_logits(case: dict[str, Any]) -> np.ndarray:
    return np.load(FIXTURES / case["name"] / "logits.npy", allow_pickle=False)


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# -- Parity -----------------------------------------------------------------------------------


@each_case
def test_one_pass_gives_the_logits_of_transformers(case):
    reference = stored_logits(case)
    ours = engine(case["name"]).logits(case["prompt"] + case["greedy"])
    assert ours.dtype == np.float32
    assert ours.shape == reference.shape
    assert relative_error(ours, reference) <= case["tolerance"]


@each_case
def test_float64_agrees_to_within_the_rounding_of_the_reference(case):
    ours = engine(case["name"], "float64").logits(case["prompt"] + case["greedy"])
    assert relative_error(ours, stored_logits(case)) <= case["tolerance"] / 10


@each_case
def test_prefill_and_32_decode_steps_give_the_tokens_and_logprobs_of_transformers(case):
    reference = stored_logits(case)
    steps = log_softmax(reference[len(case["prompt"]) - 1 : -1])
    vocab_size = reference.shape[1]
    greedily = SamplingParams(
        temperature=0.0, max_tokens=STEPS, ignore_eos=True, logprobs=vocab_size
    )
    output = engine(case["name"]).generate([case["prompt"]], greedily)[0].outputs[0]

    assert output.token_ids == case["greedy"]
    assert output.finish_reason == "length"
    assert all(len(step) == vocab_size for step in output.logprobs)
    ours = np.array([[step[v].logprob for v in range(vocab_size)] for step in output.logprobs])
    # The normaliser may be off by as much as the logit, in the other direction.
    assert np.abs(ours - steps).max() <= 2 * case["tolerance"] * np.abs(reference).max()


def test_the_cases_of_a_family_decode_together_as_transformers_decodes_each_alone():
    """One engine, four prompts of different lengths, each a beginning of the golden text."""
    case = next(case for case in MANIFEST if case["name"] == "mistral-window")
    text = case["prompt"] + case["greedy"]
    starts = [len(case["prompt"]) + extra for extra in (0, 3, 8, 19)]
    params = [
        SamplingParams(temperature=0.0, max_tokens=len(text) - start, ignore_eos=True)
        for start in starts
    ]
    outputs = engine(case["name"]).generate([text[:start] for start in starts], params)
    assert [output.outputs[0].token_ids for output in outputs] == [text[start:] for start in starts]


# -- The fixtures cover what they claim -------------------------------------------------------


def config_of(case: dict[str, Any]) -> dict[str, Any]:
    return json.loads((FIXTURES / case["name"] / "config.json").read_text())


def weight_files(case: dict[str, Any]) -> list[Path]:
    return sorted((FIXTURES / case["name"]).glob("*.safetensors"))


def stored_dtypes(case: dict[str, Any]) -> set[str]:
    dtypes = set()
    for path in weight_files(case):
        with safe_open(path, framework="numpy") as file:
            dtypes |= {
                file.get_slice(name).get_dtype()
                for name in file.keys()  # noqa: SIM118 (not a mapping)
                if "attn.bias" not in name and "inv_freq" not in name
            }
    return dtypes


def is_tied(case: dict[str, Any]) -> bool:
    return config_of(case).get("tie_word_embeddings", case["family"] == "gpt2")


def spelling(case: dict[str, Any]) -> str:
    """Which Transformers wrote the configuration, told by its keys."""
    config = config_of(case)
    if "rope_parameters" in config or "add_cross_attention" in config:
        assert "rope_theta" not in config
        return "5"
    assert case["family"] == "gpt2" or "rope_theta" in config
    return "4, torch_dtype" if "torch_dtype" in config else "4"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_at_least_four_configurations_of_every_kind_of_file(family):
    cases = [case for case in MANIFEST if case["family"] == family]
    assert len(cases) >= 4
    assert {config_of(case)["model_type"] for case in cases} == {family}
    assert {is_tied(case) for case in cases} == {True, False}
    assert {spelling(case) for case in cases} == {"4, torch_dtype", "4", "5"}
    sharded = {case["name"] for case in cases if len(weight_files(case)) > 1}
    assert 0 < len(sharded) < len(cases)
    for case in cases:
        has_index = (FIXTURES / case["name"] / "model.safetensors.index.json").exists()
        assert has_index == (case["name"] in sharded)
    assert any(len(case["prompt"]) == 1 for case in cases)


def test_weights_are_stored_in_each_of_the_three_formats():
    assert set().union(*(stored_dtypes(case) for case in MANIFEST)) == {"F32", "F16", "BF16"}


@each_case
def test_a_fixture_is_hard_to_pass_by_accident(case):
    """Greedy tokens vary, none is a near tie, and each feature moves the logits."""
    reference = stored_logits(case)
    assert len(case["greedy"]) == STEPS
    assert reference.shape[0] == len(case["prompt"]) + STEPS
    assert len(set(case["greedy"])) >= 10
    steps = np.sort(reference[len(case["prompt"]) - 1 : -1], axis=-1)
    assert (steps[:, -1] - steps[:, -2]).min() > 10 * case["tolerance"] * np.abs(reference).max()
    assert all(effect > 2 * case["tolerance"] for effect in case["effects"].values())
