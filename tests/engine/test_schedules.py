"""However a request's work is cut up, shared, stopped and repeated: the same tokens.

On the CPU, and on a GPU, where the engine works a step ahead. In float32 sums of another order move
a logit by some 1e-6, and the tiny model's best two lie apart by more.
"""

from pathlib import Path

import numpy as np
import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.errors import EngineError

SCHEDULES = {
    "whole prompts": {},
    "a token of a prompt a step": {"max_num_seqs": 1, "max_num_batched_tokens": 1},
    "pieces of prompts": {"max_num_batched_tokens": 9},
    "no prefix cache": {"enable_prefix_caching": False},
    "few blocks": {"num_blocks": 26, "block_size": 4},
    "few blocks, none known": {"num_blocks": 26, "block_size": 4, "enable_prefix_caching": False},
    "few blocks, small pieces": {"num_blocks": 26, "block_size": 4, "max_num_batched_tokens": 12},
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def work(tiny_dir: Path) -> tuple[list[list[int]], list[SamplingParams], list[list[int]]]:
    """Prompts, some of which begin alike, and what each is answered alone on the CPU."""
    rng = np.random.default_rng(3)
    opening = rng.integers(0, 250, 21).tolist()
    prompts = [rng.integers(0, 250, rng.integers(1, 30)).tolist() for _ in range(10)]
    prompts = [opening + prompt if i % 2 else prompt for i, prompt in enumerate(prompts)]
    params = [
        SamplingParams(
            temperature=0.0 if i % 3 else 0.9,
            seed=i,
            max_tokens=int(rng.integers(2, 40)),
            ignore_eos=True,
            repetition_penalty=1.2 if i == 4 else 1.0,
            priority="batch" if i % 4 == 1 else "interactive",
        )
        for i in range(10)
    ]
    llm = LLM(tiny_dir, device="cpu", enable_prefix_caching=False)
    alone = zip(prompts, params, strict=True)
    return prompts, params, [llm.generate([p], how)[0].outputs[0].token_ids for p, how in alone]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_no_schedule_changes_a_token(tiny_dir, device, work, blocks_in_use, schedule):
    prompts, params, expected = work
    llm = LLM(tiny_dir, device=device, dtype="float32", **schedule)
    for _ in range(2):  # the second time much of it is known
        outputs = llm.generate(prompts, params)
        assert [output.outputs[0].token_ids for output in outputs] == expected
    stats = llm.stats()
    assert (stats.num_preemptions > 0) == ("num_blocks" in schedule)
    assert (stats.num_tokens_found > 0) == schedule.get("enable_prefix_caching", True)
    assert blocks_in_use(llm) == 0


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_in_batch_invariant_mode_no_schedule_changes_a_bit(tiny_dir, device, work, schedule):
    """Log-probabilities to the last bit; on a GPU in bfloat16, the format of the weights."""

    def bits(llm: LLM) -> list[list[dict[int, float]]]:
        params = SamplingParams(temperature=0.0, max_tokens=25, ignore_eos=True, logprobs=3)
        return [
            [{token: entry.logprob for token, entry in step.items()} for step in steps]
            for steps in (output.outputs[0].logprobs for output in llm.generate(work[0], params))
        ]

    llm = LLM(tiny_dir, device=device, batch_invariant=True, **schedule)
    alone = LLM(tiny_dir, device=device, batch_invariant=True, max_num_seqs=1)
    expected = bits(alone)
    assert bits(llm) == expected
    assert bits(llm) == expected, "when much of it is known"


def test_samples_that_are_stopped_and_read_again_stay_what_they_were(tiny_dir, device):
    """Three samples share a prompt's blocks, and there are too few for their ends."""
    params = SamplingParams(n=3, temperature=1.0, seed=7, max_tokens=20, ignore_eos=True)
    prompt = list(range(10))
    many, few = (
        LLM(tiny_dir, device=device, dtype="float32", block_size=4, **options)
        for options in ({}, {"num_blocks": 24})
    )
    others = [[1] * 30, [2] * 30]
    greedy = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)
    expected = many.generate([*others, prompt], [greedy, greedy, params])
    assert (
        few.generate([*others, prompt], [greedy, greedy, params])[2].outputs == expected[2].outputs
    )
    assert few.stats().num_preemptions > 0


def test_what_others_left_in_a_block_is_never_seen_not_even_nan(tiny_dir, device, work):
    """A request whose logits were no numbers may have left such keys and values behind."""
    prompts, params, expected = work
    llm = LLM(tiny_dir, device=device, dtype="float32")
    for keys, values in llm.engine.runner.kv_cache.layers:
        keys[...] = values[...] = np.nan
    outputs = llm.generate(prompts, params)
    assert [output.outputs[0].token_ids for output in outputs] == expected


def test_a_client_that_leaves_with_a_token_in_flight_disturbs_nobody(
    tiny_dir, device, work, blocks_in_use
):
    prompts, params, expected = work
    llm = LLM(tiny_dir, device=device, dtype="float32", num_blocks=30, block_size=4)
    for num_read in (1, 2, 3):
        leaving = llm.stream(prompts[:3], params[:3])
        staying = llm.stream(prompts[3:], params[3:])
        for _ in range(num_read):
            next(leaving)
        first = next(staying)
        leaving.close()
        answers: dict[str, list[int]] = {}
        for chunk in (first, *staying):
            answers.setdefault(chunk.request_id, []).extend(chunk.token_ids)
        by_age = sorted(answers, key=int)
        assert [answers[request_id] for request_id in by_age] == expected[3:]
        assert blocks_in_use(llm) == 0


@pytest.mark.parametrize("call", [0, 1, 5])
def test_after_a_step_that_failed_the_engine_answers_as_before(
    tiny_dir, device, work, blocks_in_use, monkeypatch: pytest.MonkeyPatch, call
):
    prompts, params, expected = work
    llm = LLM(tiny_dir, device=device, dtype="float32")
    runner, calls = llm.engine.runner, iter(range(10**6))
    compute = runner._compute

    def failing(*args):
        computed = compute(*args)
        if next(calls) == call:
            raise RuntimeError("the bus fell off")
        return computed

    monkeypatch.setattr(runner, "_compute", failing)
    with pytest.raises(EngineError, match="the bus fell off"):
        llm.generate(prompts, params)
    assert blocks_in_use(llm) == 0
    outputs = llm.generate(prompts, params)
    assert [output.outputs[0].token_ids for output in outputs] == expected
