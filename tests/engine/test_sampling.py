"""How tokens are chosen: greedily, by a seed, with penalties, with log-probabilities reported."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_numba import LLM, SamplingParams
from llm_numba.engine.outputs import CompletionOutput
from llm_numba.errors import EngineError

PROMPT = "Tom lost"


def answers(llm: LLM, prompt: str | list[int] = PROMPT, **fields) -> list[CompletionOutput]:
    params = SamplingParams(**{"max_tokens": 12, "ignore_eos": True, **fields})
    return llm.generate(prompt, params)[0].outputs


def tokens(llm: LLM, prompt: str | list[int] = PROMPT, **fields) -> list[int]:
    return answers(llm, prompt, **fields)[0].token_ids


def step_logits(llm: LLM, answer: list[int]) -> np.ndarray:
    """The logits that each token of an answer was chosen from, in one pass."""
    prompt = llm.tokenizer.encode(PROMPT)
    return llm.logits(prompt + answer)[len(prompt) - 1 : -1]


# -- Greedy -----------------------------------------------------------------------------------


def test_greedy_takes_the_largest_logit_of_every_step(tiny_llm: LLM):
    chosen = tokens(tiny_llm, temperature=0.0, max_tokens=40)
    assert chosen == step_logits(tiny_llm, chosen).argmax(axis=-1).tolist()


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}])
def test_sampling_from_the_most_likely_token_alone_is_greedy(tiny_llm: LLM, narrow):
    assert tokens(tiny_llm, seed=1, **narrow) == tokens(tiny_llm, temperature=0.0)


def test_a_low_temperature_comes_close_to_greedy(tiny_llm: LLM):
    assert tokens(tiny_llm, seed=1, temperature=1e-4) == tokens(tiny_llm, temperature=0.0)


@pytest.mark.parametrize("k", [2, 5])
def test_top_k_samples_only_from_the_k_largest_logits(tiny_llm: LLM, k):
    chosen = tokens(tiny_llm, seed=1, top_k=k, max_tokens=40)
    ranks = (-step_logits(tiny_llm, chosen)).argsort(axis=-1).argsort(axis=-1)
    ranks = ranks[np.arange(40), chosen]
    assert ranks.max() < k
    assert ranks.min() < ranks.max(), "not only the first of them"


def test_top_k_of_minus_one_or_zero_is_off(tiny_llm: LLM):
    assert tokens(tiny_llm, seed=1, top_k=-1) == tokens(tiny_llm, seed=1, top_k=0)


# -- Seeds ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_tokens_again(tiny_llm: LLM):
    assert tokens(tiny_llm, seed=7) == tokens(tiny_llm, seed=7)


def test_the_same_seed_gives_the_same_tokens_in_any_company(tiny_llm: LLM):
    alone = tokens(tiny_llm, seed=7)
    params = SamplingParams(seed=7, max_tokens=12, ignore_eos=True)
    other = SamplingParams(max_tokens=20, temperature=2.0)
    for place in range(4):
        prompts, all_params = ["Anna", "x" * 30, "The red ball"], [other] * 3
        prompts.insert(place, PROMPT)
        all_params.insert(place, params)
        assert tiny_llm.generate(prompts, all_params)[place].outputs[0].token_ids == alone


def test_different_seeds_differ(tiny_llm: LLM):
    assert len({tuple(tokens(tiny_llm, seed=seed)) for seed in range(20)}) == 20


def test_a_seed_counts_in_all_of_its_64_bits(tiny_llm: LLM):
    seeds = [0, 1, 1 << 31, 1 << 32, 1 << 63, 2**64 - 1]
    assert len({tuple(tokens(tiny_llm, seed=seed)) for seed in seeds}) == len(seeds)


def test_without_a_seed_two_answers_differ(tiny_llm: LLM):
    assert tokens(tiny_llm, max_tokens=30) != tokens(tiny_llm, max_tokens=30)


def test_the_random_number_of_a_step_depends_on_the_step(tiny_llm: LLM, monkeypatch):
    """From a flat distribution, one number for all steps would draw one token for all steps."""
    model = tiny_llm.engine.runner.model
    monkeypatch.setattr(model, "scores", lambda hidden: np.zeros((len(hidden), 272), np.float32))
    assert len(set(tokens(tiny_llm, seed=7, max_tokens=40))) > 30


def test_the_samples_of_one_request_differ(tiny_llm: LLM):
    samples = answers(tiny_llm, n=5, seed=7)
    assert [sample.index for sample in samples] == [0, 1, 2, 3, 4]
    assert len({tuple(sample.token_ids) for sample in samples}) == 5


def test_the_first_of_n_samples_is_that_of_n_equal_to_one(tiny_llm: LLM):
    assert answers(tiny_llm, n=5, seed=7)[0] == answers(tiny_llm, seed=7)[0]


@pytest.mark.parametrize("prompt", [PROMPT, "x" * 14, "x" * 15, "x" * 16])
def test_each_of_n_samples_is_what_it_would_be_alone(tiny_llm: LLM, prompt):
    """Shared prompt blocks, full or partly filled, are copied before a sample writes to them.

    A sample alone is a request for one sample whose random stream is set to that sample's.
    """
    params = SamplingParams(n=4, seed=7, max_tokens=20, ignore_eos=True)
    together = [sample.token_ids for sample in tiny_llm.generate(prompt, params)[0].outputs]
    engine = tiny_llm.engine
    for index in range(4):
        params = SamplingParams(seed=7, max_tokens=20, ignore_eos=True)
        request = engine.new_request(prompt, tiny_llm.tokenizer.encode(prompt), params)
        engine.add(request)
        request.sequences[0].output.index = index
        while not request.finished:
            engine.step()
        assert request.sequences[0].output.token_ids == together[index]


def test_samples_of_one_request_compute_its_prompt_once(tiny_llm: LLM, monkeypatch):
    model = tiny_llm.engine.runner.model
    sizes, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda batch, kv: sizes.append(len(batch.token_ids)) or forward(batch, kv)
    )
    answers(tiny_llm, n=4, seed=7, max_tokens=3)
    assert sizes == [len(tiny_llm.tokenizer.encode(PROMPT)), 4, 4]


# -- Penalties --------------------------------------------------------------------------------


@pytest.fixture
def stubborn(tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> LLM:
    """A model that always prefers token 9 (logit 1), then 8 (0.9), then 7 (0.8); others 0."""
    row = np.zeros(272, np.float32)
    row[[9, 8, 7]] = 1.0, 0.9, 0.8
    model = tiny_llm.engine.runner.model
    monkeypatch.setattr(model, "scores", lambda hidden: np.tile(row, (len(hidden), 1)))
    return tiny_llm


@pytest.mark.parametrize(
    ("penalty", "chosen"),
    [
        ({}, [9, 9, 9, 9]),
        ({"presence_penalty": 0.15}, [9, 8, 9, 9]),
        ({"presence_penalty": 0.25}, [9, 8, 7, 9]),
        ({"frequency_penalty": 0.15}, [9, 8, 9, 7]),
        ({"frequency_penalty": -0.5}, [9, 9, 9, 9]),
        ({"repetition_penalty": 2.0}, [9, 8, 7, 9]),
    ],
)
def test_a_penalty_moves_the_choice_to_tokens_not_yet_generated(stubborn: LLM, penalty, chosen):
    assert tokens(stubborn, temperature=0.0, max_tokens=4, **penalty) == chosen


@pytest.mark.parametrize(
    ("penalty", "first"),
    [
        ({"repetition_penalty": 2.0}, 8),
        ({"presence_penalty": 2.0}, 9),
        ({"frequency_penalty": 2.0}, 9),
    ],
)
def test_only_the_repetition_penalty_looks_at_the_prompt(stubborn: LLM, penalty, first):
    assert tokens(stubborn, [9, 9, 3], temperature=0.0, max_tokens=1, **penalty) == [first]


def test_a_penalty_of_one_request_leaves_its_neighbours_alone(stubborn: LLM):
    plain = SamplingParams(temperature=0.0, max_tokens=3)
    penalized = SamplingParams(temperature=0.0, max_tokens=3, presence_penalty=0.15)
    outputs = stubborn.generate(["a", "b", "c"], [plain, penalized, plain])
    assert [o.outputs[0].token_ids for o in outputs] == [[9, 9, 9], [9, 8, 9], [9, 9, 9]]


def test_each_sample_is_penalized_for_its_own_tokens_alone(tiny_llm: LLM, monkeypatch):
    """Two tokens share all the probability; the one that a sample took first is halved for it."""
    row = np.zeros(272, np.float32)
    row[[8, 9]] = 50.0
    model = tiny_llm.engine.runner.model
    monkeypatch.setattr(model, "scores", lambda hidden: np.tile(row, (len(hidden), 1)))
    samples = answers(tiny_llm, n=8, seed=3, max_tokens=2, repetition_penalty=2.0)
    pairs = [tuple(sample.token_ids) for sample in samples]
    assert set(pairs) == {(8, 9), (9, 8)}


# -- Log-probabilities ------------------------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0},
        {"temperature": 0.5, "seed": 1},
        {"seed": 1, "top_k": 3, "frequency_penalty": 1.0, "repetition_penalty": 1.5},
    ],
    ids=["greedy", "cold", "penalized"],
)
def test_logprobs_are_those_of_the_model_before_penalties_and_temperature(tiny_llm: LLM, fields):
    """Against LLM.logits in one pass; 1e-5 is several float32 roundings of logits below 10."""
    (answer,) = answers(tiny_llm, logprobs=5, **fields)
    reference = log_softmax(step_logits(tiny_llm, answer.token_ids))
    assert len(answer.logprobs) == len(answer.token_ids)
    for token, reported, expected in zip(answer.token_ids, answer.logprobs, reference, strict=True):
        best = (-expected).argsort()[:5].tolist()
        assert list(reported)[:5] == best
        assert set(reported) == {*best, token}
        for other, entry in reported.items():
            assert entry.logprob == pytest.approx(expected[other], abs=1e-5)
            assert entry.rank == 1 + np.count_nonzero(expected > expected[other])
    total = reference[np.arange(len(reference)), answer.token_ids].sum()
    assert answer.cumulative_logprob == pytest.approx(total, abs=1e-4)


def test_a_token_far_from_the_best_is_reported_behind_them_with_its_rank(tiny_llm: LLM):
    (answer,) = answers(tiny_llm, logprobs=1, seed=1, temperature=3.0)
    ranks = [
        step[token].rank for token, step in zip(answer.token_ids, answer.logprobs, strict=True)
    ]
    assert max(ranks) > 10
    assert {len(step) for step in answer.logprobs} == {2}


def test_logprobs_of_zero_report_the_chosen_token_alone(tiny_llm: LLM):
    (answer,) = answers(tiny_llm, logprobs=0, seed=1)
    assert [list(step) for step in answer.logprobs] == [[token] for token in answer.token_ids]


def test_logprobs_beyond_the_vocabulary_report_all_of_it(tiny_llm: LLM):
    (answer,) = answers(tiny_llm, logprobs=10**6, seed=1, max_tokens=1)
    (step,) = answer.logprobs
    assert len(step) == 272
    assert sum(np.exp(entry.logprob) for entry in step.values()) == pytest.approx(1, abs=1e-5)
    assert [entry.rank for entry in step.values()] == list(range(1, 273))


def test_logprobs_show_each_token_as_text_special_ones_included(tiny_llm: LLM):
    (answer,) = answers(tiny_llm, logprobs=10**6, seed=1, max_tokens=1)
    (step,) = answer.logprobs
    a = tiny_llm.tokenizer.encode("a")[1]
    assert (step[a].decoded_token, step[257].decoded_token) == ("a", "</s>")


def test_logprobs_are_left_out_unless_asked_for(tiny_llm: LLM):
    (answer,) = answers(tiny_llm, seed=1)
    assert answer.logprobs is None
    assert answer.cumulative_logprob is None


def test_asking_for_logprobs_changes_no_token(tiny_llm: LLM):
    assert tokens(tiny_llm, seed=1, logprobs=3) == tokens(tiny_llm, seed=1)


# -- Damaged weights --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"seed": 1}])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_weights_that_are_no_numbers_are_an_error_not_an_answer(tiny_checkpoint, value, fields):
    directory = tiny_checkpoint()
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"] = np.full(32, value, np.float32)
    save_file(weights, directory / "model.safetensors")
    with pytest.raises(EngineError, match="logits are not finite") as caught:
        tokens(LLM(directory), **fields)
    assert "may be damaged" in caught.value.remedy
