"""Prompts, parameters and engines that cannot be had: refused at once, with nothing queued."""

import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.errors import (
    CacheError,
    ConfigError,
    DeviceError,
    EngineError,
    LLMNumbaError,
    PromptError,
)


def refusal(kind: type[LLMNumbaError], call, *args, **options) -> LLMNumbaError:
    """The error of a call, in two sentences."""
    with pytest.raises(kind) as caught:
        call(*args, **options)
    assert caught.value.cause.endswith(".")
    assert caught.value.remedy.endswith(".")
    return caught.value


# -- Prompts ----------------------------------------------------------------------------------

BAD_PROMPTS = [
    ("", "The prompt is empty."),
    ([], "There is no prompt."),
    ([[]], "The prompt is empty."),
    (["fine", ""], "The prompt is empty."),
    ("x" * 96, "The prompt has 97 tokens and the context holds 96, the answer included."),
    ([1] * 96, "The prompt has 96 tokens and the context holds 96, the answer included."),
    ([272], "Token id 272 is outside the model's vocabulary of 272."),
    ([5, -1], "Token id -1 is outside the model's vocabulary of 272."),
    ([2**70], f"Token id {2**70} is outside the model's vocabulary of 272."),
    ([[1], [2, 999]], "Token id 999 is outside the model's vocabulary of 272."),
]


@pytest.mark.parametrize(("prompts", "cause"), BAD_PROMPTS)
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_a_bad_prompt_is_refused_before_anything_is_queued(tiny_llm: LLM, method, prompts, cause):
    """`stream` refuses it in the call, not with the first chunk."""
    error = refusal(PromptError, getattr(tiny_llm, method), prompts)
    assert error.cause == cause
    assert not tiny_llm.engine._scheduler.waiting
    assert not tiny_llm.engine._scheduler.running


def test_the_longest_prompt_leaves_room_for_one_token(tiny_llm: LLM):
    output = tiny_llm.generate([1] * 95, SamplingParams(max_tokens=50, ignore_eos=True))[0]
    assert len(output.outputs[0].token_ids) == 1


def test_max_model_len_shortens_the_context(new_llm):
    llm = new_llm(max_model_len=10)
    assert "the context holds 10" in refusal(PromptError, llm.generate, [1] * 10).cause
    output = llm.generate([1] * 4, SamplingParams(max_tokens=None, ignore_eos=True))[0]
    assert len(output.outputs[0].token_ids) == 6


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_number_of_params_must_be_that_of_the_prompts(tiny_llm: LLM, count):
    params = [SamplingParams()] * count
    error = refusal(PromptError, tiny_llm.generate, ["a", "b"], params)
    assert error.cause == f"There are 2 prompts and {count} SamplingParams."


@pytest.mark.parametrize(
    ("token_ids", "cause"),
    [
        ([], "The prompt is empty."),
        ([1] * 97, "The prompt has 97 tokens and the context holds 96"),
        ([272], "Token id 272 is outside"),
        ([-1], "Token id -1 is outside"),
    ],
)
def test_logits_refuses_the_same_prompts(tiny_llm: LLM, token_ids, cause):
    assert refusal(PromptError, tiny_llm.logits, token_ids).cause.startswith(cause)


def test_a_chat_that_fills_the_context_is_refused(tiny_llm: LLM):
    messages = [{"role": "user", "content": "x" * 96}]
    for method in (tiny_llm.chat, tiny_llm.stream_chat):
        assert "the context holds 96" in refusal(PromptError, method, messages).cause


# -- More than the engine can ever hold -------------------------------------------------------


def test_more_samples_than_may_run_at_a_time_are_refused(new_llm):
    llm = new_llm(max_num_seqs=2)
    error = refusal(CacheError, llm.generate, "a", SamplingParams(n=3))
    assert "n=3" in error.cause
    assert "runs 2 sequences at a time" in error.cause
    assert "max_num_seqs" in error.remedy


def test_samples_that_never_fit_the_cache_together_are_refused(new_llm):
    llm = new_llm(num_blocks=6)
    error = refusal(CacheError, llm.generate, [1] * 40, SamplingParams(n=2, max_tokens=20))
    assert "n=2 samples of up to 60 tokens need 8 blocks" in error.cause
    assert "the engine has 6 blocks" in error.cause
    assert len(llm.generate([1] * 40, SamplingParams(n=2, max_tokens=8))[0].outputs) == 2


def test_logits_that_do_not_fit_beside_running_requests_are_refused(new_llm, blocks_in_use):
    llm = new_llm(num_blocks=6)
    stream = llm.stream([1] * 10, SamplingParams(max_tokens=40, ignore_eos=True))
    next(stream)
    error = refusal(CacheError, llm.logits, [1] * 81)
    assert "81 tokens need 6 blocks" in error.cause
    assert llm.logits([1] * 80).shape == (80, 272)
    stream.close()
    assert llm.logits([1] * 96).shape == (96, 272)
    assert blocks_in_use(llm) == 0


# -- Engines ----------------------------------------------------------------------------------

NUMBERS = ["block_size", "num_blocks", "max_num_seqs", "max_num_batched_tokens", "max_model_len"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1])
def test_an_engine_option_below_one_is_named(new_llm, name, value):
    error = refusal(EngineError, new_llm, **{name: value})
    assert error.cause == f"{name}={value} is out of range."
    assert error.remedy == f"{name} must be at least 1."


def test_a_cache_too_small_for_one_sequence_is_refused(new_llm):
    error = refusal(CacheError, new_llm, num_blocks=5)
    assert "num_blocks=5 blocks of 16 tokens cannot hold one sequence" in error.cause
    assert "at least 6 blocks" in error.remedy
    assert new_llm(num_blocks=5, max_model_len=80).max_model_len == 80


def test_a_cache_larger_than_the_memory_is_refused(tiny_checkpoint):
    most = 2**31 - 1
    directory = tiny_checkpoint(max_position_embeddings=most)
    error = refusal(CacheError, LLM, directory)
    assert f"one sequence of {most} tokens" in error.cause
    assert "max_model_len" in error.remedy
    assert LLM(directory, max_model_len=64).max_model_len == 64


def test_a_context_longer_than_the_model_was_trained_for_is_refused(new_llm):
    error = refusal(EngineError, new_llm, max_model_len=97)
    assert "max_model_len=97 is more than the 96 positions" in error.cause
    assert error.remedy == "Choose at most 96."


@pytest.mark.parametrize("kind", ["dynamic", "yarn"])
def test_rope_that_stretches_may_be_asked_for_as_much_as_it_stretches(kind, tiny_checkpoint):
    directory = tiny_checkpoint(rope_scaling={"rope_type": kind, "factor": 2.0})
    assert LLM(directory).max_model_len == 96
    llm = LLM(directory, max_model_len=192)
    greedily = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    assert len(llm.generate([list(range(3, 123))], greedily)[0].outputs[0].token_ids) == 8
    error = refusal(EngineError, LLM, directory, max_model_len=193)
    assert error.remedy == "Choose at most 192."


def test_cuda_without_a_driver_says_what_is_missing(new_llm, monkeypatch: pytest.MonkeyPatch):
    import ctypes

    def no_library(name, *args):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    error = refusal(DeviceError, new_llm, device="cuda")
    assert "device='cuda' cannot be used: no NVIDIA driver" in error.cause
    assert "device='cpu'" in error.remedy


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "", None])
def test_an_unknown_device_lists_the_known_ones(new_llm, device):
    error = refusal(DeviceError, new_llm, device=device)
    assert repr(device) in error.cause
    assert error.remedy == "Choose one of: auto, cpu, cuda, sim."


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "double"])
def test_a_number_format_that_the_cpu_does_not_compute_in_is_refused(new_llm, dtype):
    error = refusal(DeviceError, new_llm, dtype=dtype)
    assert f"device='cpu' does not compute in dtype={dtype!r}" in error.cause
    assert error.remedy.startswith("Choose one of: float32, float64;")


def test_the_device_is_checked_before_the_model_is_looked_for():
    refusal(DeviceError, LLM, "no such model", device="tpu")


def test_a_directory_without_a_model_is_refused(tmp_path):
    assert "config.json cannot be read" in refusal(ConfigError, LLM, tmp_path).cause


def test_auto_chooses_a_device_that_works(tiny_llm: LLM):
    assert tiny_llm.device == "cpu"
    assert tiny_llm.dtype == "float32"
