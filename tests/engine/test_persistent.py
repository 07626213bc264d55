"""One kernel for a decoding step, in place of the model's many: over the same weights and cache."""

import numpy as np
import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.engine.persistent import PersistentDecoder
from llm_numba.errors import EngineError
from llm_numba.models import ForwardBatch
from llm_numba.runtime import to_device, to_host, zeros

TOKENS = [256, *b"Once upon a time", 32]


def batch_of(token, table, device):
    """A batch of one new token, for which the table has a slot."""
    position = table.num_tokens - 1
    slot = table.blocks[position // 16] * 16 + position % 16
    lists = ([token], [position], [slot], [table.blocks], [0, 1], [position + 1])
    return ForwardBatch(*(to_device(np.array(each, "i4"), device) for each in lists))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_it_scores_what_the_model_scores(tied, tiny_checkpoint, device):
    directory = tiny_checkpoint(tie_word_embeddings=tied)
    llm = LLM(directory, device=device, dtype="float32", num_blocks=8)
    runner = llm.engine.runner
    table = runner.kv_cache.new_table()
    runner.all_logits(TOKENS[:-1], table)
    expected = runner.all_logits(TOKENS[-1:], table)
    decoder = PersistentDecoder(runner.model, runner.kv_cache)
    likeliest = zeros(1, "i8", device)
    logits = to_host(decoder.decode(batch_of(TOKENS[-1], table, device), likeliest))
    # Sums in another order, in float32.
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    assert to_host(likeliest).tolist() == [expected.argmax()]
    # The model has views of the moved weights, and its bits.
    table.truncate(len(TOKENS) - 1)
    np.testing.assert_array_equal(runner.all_logits(TOKENS[-1:], table), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_bias": True}, "its products have biases"),
        ({"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}, "1, 2, 4 or 8"),
        ({"intermediate_size": 50}, "not all multiples of 4"),
    ],
)
def test_what_it_cannot_run_is_said(changes, words, tiny_checkpoint, device):
    llm = LLM(tiny_checkpoint(**changes), device=device, dtype="float32", num_blocks=8)
    with pytest.raises(EngineError, match=words):
        PersistentDecoder(llm.engine.runner.model, llm.engine.runner.kv_cache)


def test_a_device_of_too_little_shared_memory_is_refused(tiny_checkpoint):
    directory = tiny_checkpoint(intermediate_size=16 * 1024, num_hidden_layers=1)
    llm = LLM(directory, device="sim", dtype="float32", num_blocks=8)
    with pytest.raises(EngineError, match=r"no room in 65536 bytes of shared memory.*graphs run"):
        PersistentDecoder(llm.engine.runner.model, llm.engine.runner.kv_cache)


def test_other_executions_are_refused(tiny_dir):
    llm = LLM(tiny_dir, device="sim", num_blocks=8, batch_invariant=True)
    with pytest.raises(EngineError, match=r"run another way \(execution, batch_invariant\)"):
        PersistentDecoder(llm.engine.runner.model, llm.engine.runner.kv_cache)


def test_it_needs_a_gpu(tiny_dir):
    with pytest.raises(EngineError, match="there is none"):
        LLM(tiny_dir, device="cpu", persistent=True)


@pytest.mark.gpu
def test_an_engine_with_it_writes_the_same_tokens(device):
    if device == "sim":
        pytest.skip("the simulator runs no graphs")
    prompts = ["Once upon a time", "Lily had a red ball."]
    answers = []
    for persistent in (False, True):
        llm = LLM("storyteller", device=device, dtype="float32", persistent=persistent)
        written = []
        for temperature in (0.0, 0.8):
            params = SamplingParams(temperature=temperature, seed=5, max_tokens=60, ignore_eos=True)
            written += [llm.generate(p, params)[0].outputs[0].token_ids for p in prompts]
            written += [o.outputs[0].token_ids for o in llm.generate(prompts, params)]
        answers.append(written)
    assert answers[0] == answers[1]
