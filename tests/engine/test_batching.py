"""A batch gives token for token what each of its prompts gives alone."""

from typing import Any

import numpy as np
import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.engine.outputs import RequestOutput

# Engines on which requests wait, are read in pieces, share steps and blocks, are stopped and
# computed again, and straddle block borders.
ENGINES = [
    {"block_size": 1, "num_blocks": 104, "max_num_seqs": 8, "enable_prefix_caching": False},
    {"block_size": 3, "num_blocks": 40, "max_num_seqs": 3},
    {"block_size": 4, "num_blocks": 28, "max_num_seqs": 64, "max_num_batched_tokens": 20},
    {"block_size": 16, "num_blocks": 8, "max_num_seqs": 4, "max_num_batched_tokens": 3},
    {"block_size": 96, "num_blocks": 2, "max_num_seqs": 2},
]


def random_request(rng: np.random.Generator) -> tuple[list[int], SamplingParams]:
    prompt = rng.integers(0, 256, rng.integers(1, 41)).tolist()
    fields: dict[str, Any] = {"max_tokens": int(rng.integers(1, 13))}
    fields |= [
        {"temperature": 0.0},
        {"seed": int(rng.integers(2**32))},
        {"seed": int(rng.integers(2**32)), "temperature": 0.7, "top_k": 20, "top_p": 0.9},
        {"seed": int(rng.integers(2**32)), "n": 2, "min_p": 0.02},
        {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 0.0, "stop_token_ids": list(range(0, 256, 5))},
    ][rng.integers(6)]
    return prompt, SamplingParams(**fields)


def what(output: RequestOutput) -> list[tuple[list[int], str, str | None]]:
    return [(o.token_ids, o.text, o.finish_reason) for o in output.outputs]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batched_equals_one_by_one_over_200_random_mixes(new_llm, blocks_in_use, dtype):
    """Requests are drawn from a pool, run once alone, and mixed on five engines.

    In float32 the sums of a batch and of a single row may differ in the last bit, for BLAS adds in
    an order that depends on the number of rows. That moves a probability by some 1e-7, so a choice
    changes only if a random number, or the lead of the largest logit, is that close to the border:
    for the few thousand choices here a chance of about one in a thousand, and the seeds are fixed.
    In float64 it is beyond chance.
    """
    rng = np.random.default_rng(0)
    solo = new_llm(dtype=dtype, enable_prefix_caching=False)
    pool = [random_request(rng) for _ in range(80)]
    alone = [what(solo.generate([prompt], params)[0]) for prompt, params in pool]
    engines = [new_llm(dtype=dtype, **shape) for shape in ENGINES]
    for mix in range(200):
        llm = engines[mix % len(engines)]
        chosen = rng.choice(len(pool), rng.integers(2, 9), replace=False)
        outputs = llm.generate([pool[i][0] for i in chosen], [pool[i][1] for i in chosen])
        assert [what(output) for output in outputs] == [alone[i] for i in chosen]
        assert blocks_in_use(llm) == 0
    stats = [llm.stats() for llm in engines]
    assert sum(each.num_preemptions for each in stats) > 10
    assert sum(each.num_tokens_found > 100 for each in stats) >= 3


@pytest.mark.parametrize("shape", ENGINES, ids=lambda shape: f"blocks of {shape['block_size']}")
def test_all_logits_at_once_equal_those_of_the_steps(new_llm, monkeypatch, shape):
    """To 1e-5 of the largest: the two add in different orders, in float32."""
    llm = new_llm(**shape)
    model = llm.engine.runner.model
    steps, scores = [], model.scores
    monkeypatch.setattr(model, "scores", lambda h: steps.append(scores(h)) or steps[-1])
    prompt = [1, 2, 3, 4, 5]
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
    answer = llm.generate(prompt, params)[0].outputs[0].token_ids
    assert [len(step) for step in steps] == [1] * 40
    incremental = np.concatenate(steps)
    at_once = llm.logits(prompt + answer)[len(prompt) - 1 : -1]
    np.testing.assert_allclose(at_once, incremental, rtol=0, atol=1e-5 * np.abs(at_once).max())


def test_logits_are_float32_a_row_for_each_token(tiny_llm: LLM):
    scores = tiny_llm.logits([1, 2, 3])
    assert scores.dtype == np.float32
    assert scores.shape == (3, 272)


def test_logits_of_a_text_begin_with_those_of_its_beginning(tiny_llm: LLM):
    """No token sees those after it."""
    token_ids = list(range(40))
    whole = tiny_llm.logits(token_ids)
    np.testing.assert_allclose(tiny_llm.logits(token_ids[:25]), whole[:25], rtol=0, atol=1e-4)


def test_logits_may_fill_the_context(tiny_llm: LLM):
    assert tiny_llm.logits([1] * 96).shape == (96, 272)


def test_float64_computes_in_float64_and_float32_comes_within_its_rounding(new_llm, tiny_llm: LLM):
    precise = new_llm(dtype="float64").logits(list(range(50)))
    assert precise.dtype == np.float64
    error = np.abs(tiny_llm.logits(list(range(50))) - precise).max() / np.abs(precise).max()
    assert 1e-9 < error < 1e-5


def test_float64_gives_the_tokens_of_float32(new_llm, tiny_llm: LLM):
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
    prompts = ["abc", "Tom lost the ball"]
    assert [what(o) for o in new_llm(dtype="float64").generate(prompts, params)] == [
        what(o) for o in tiny_llm.generate(prompts, params)
    ]


def test_a_sliding_window_is_kept_in_a_batch(tiny_checkpoint):
    directory = tiny_checkpoint(architectures=["MistralForCausalLM"], sliding_window=5)
    llm = LLM(directory, block_size=4)
    params = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)
    prompts = [[1], [2] * 3, list(range(30)), list(range(100, 117))]
    alone = [what(llm.generate([prompt], params)[0]) for prompt in prompts]
    assert [what(o) for o in llm.generate(prompts, params)] == alone
    for prompt, ((answer, _, _),) in zip(prompts, alone, strict=True):
        full = llm.logits(prompt + answer)[len(prompt) - 1 : -1]
        assert answer == full.argmax(axis=-1).tolist()


def test_one_list_of_numbers_is_one_prompt_and_a_list_of_lists_several(tiny_llm: LLM):
    params = SamplingParams(temperature=0.0, max_tokens=3)
    assert [o.prompt_token_ids for o in tiny_llm.generate([5, 6], params)] == [[5, 6]]
    assert [o.prompt_token_ids for o in tiny_llm.generate([[5], [6]], params)] == [[5], [6]]
    assert [o.prompt for o in tiny_llm.generate(["a", [6]], params)] == ["a", None]


def test_outputs_come_in_the_order_of_the_prompts_each_with_its_own_params(tiny_llm: LLM):
    lengths = [9, 1, 5]
    params = [SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=n) for n in lengths]
    outputs = tiny_llm.generate(["a", "b", "c"], params)
    assert [o.prompt for o in outputs] == ["a", "b", "c"]
    assert [len(o.outputs[0].token_ids) for o in outputs] == lengths
    assert all(o.finished for o in outputs)
    assert len({o.request_id for o in outputs}) == 3


def test_metrics_count_tokens_and_time(tiny_llm: LLM):
    params = SamplingParams(max_tokens=5, ignore_eos=True)
    metrics = tiny_llm.generate("abcd", params)[0].metrics
    assert (metrics.num_prompt_tokens, metrics.num_cached_tokens) == (5, 0)
    assert metrics.num_generated_tokens == 5
    assert metrics.time_to_first_token > 0
    assert metrics.decode_time > 0
    assert metrics.prompt_tokens_per_second == 5 / metrics.time_to_first_token
    assert metrics.decode_tokens_per_second == 4 / metrics.decode_time


def test_metrics_count_the_tokens_of_all_samples(tiny_llm: LLM):
    params = SamplingParams(n=3, max_tokens=5, ignore_eos=True)
    assert tiny_llm.generate("abcd", params)[0].metrics.num_generated_tokens == 15
