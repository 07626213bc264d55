"""The engine's arithmetic, held against shapes, against live arrays, and against each other."""

import weakref

import ml_dtypes
import numpy as np
import pytest
from decoding import new_sequences, prefill, step_of

from llm_numba import LLM
from llm_numba.engine import building, memory
from llm_numba.engine.memory import MemoryOptions, activation_bytes, layer_bytes, plan_memory
from llm_numba.errors import CacheError, EngineError
from llm_numba.models import load_config, resolve_model
from llm_numba.runtime import arrays

GIB = 2**30
BF16 = np.dtype(ml_dtypes.bfloat16)


def config_of(shape):
    return load_config(resolve_model(f"random:{shape}"))


def plan(shape, dtype=BF16, card=80 * GIB, length=8192, **options):
    return plan_memory(config_of(shape), dtype, "cuda", MemoryOptions(length, **options), card)


@pytest.mark.parametrize(
    ("shape", "parameters", "tokens"),
    [("llama-3-8b", 8_030_261_248, 131_072), ("llama-3.2-1b", 1_235_814_400, 32_768)],
)
def test_weights_and_tokens_take_what_their_makers_say(shape, parameters, tokens):
    """The published counts of parameters; 2 L G D numbers a token; RoPE in float32."""
    config = config_of(shape)
    rope = 2 * 8192 * config.head_dim // 2 * 4
    assert memory.weight_bytes(config, BF16, 8192) == 2 * parameters + rope
    assert memory.kv_bytes_per_token(config, BF16) == tokens


def test_learned_positions_have_no_tables_besides():
    assert memory.weight_bytes(config_of("gpt2"), np.dtype(np.float32), 1024) == 4 * 124_439_808


def test_all_of_the_limit_is_used_but_for_less_than_a_block():
    found = plan("llama-3-8b", gpu_memory_utilization=0.75)
    assert found.limit == 60 * GIB
    assert found.needs.num_bytes + found.kv_cache == found.taken
    assert found.limit - found.block_bytes < found.taken <= found.limit


def test_a_small_model_takes_no_more_than_its_sequences_can_fill():
    found = plan("gpt2", length=1024, max_num_seqs=8)
    assert found.num_blocks == 8 * 1024 // 16
    assert found.taken < 2 * GIB


def test_what_does_not_fit_is_told_from_the_configuration_alone():
    with pytest.raises(EngineError, match=r"the weights take 131\.\d GiB"):
        plan("llama-3-70b")
    with pytest.raises(EngineError, match="max_num_batched_tokens"):
        plan("llama-3-8b", max_num_batched_tokens=10**6, max_num_seqs=10**3)
    with pytest.raises(CacheError, match="max_model_len to at most"):
        plan("llama-3-8b", card=18 * GIB)


def test_larger_steps_leave_less_for_the_cache():
    small, large = (plan("llama-3-8b", max_num_batched_tokens=n) for n in (2048, 16384))
    assert large.num_blocks < small.num_blocks
    assert large.needs.weights == small.needs.weights


def test_a_step_is_never_larger_than_all_sequences_together():
    config, one = config_of("llama-3-8b"), MemoryOptions(100, max_num_seqs=1)
    assert activation_bytes(config, BF16, "cpu", one) == max(
        layer_bytes(config, BF16, 100),
        100 * 4096 * 2 + memory.logits_bytes(config, 1) + 128256 * 4 + 100 * 8,
    )


@pytest.mark.parametrize("length", [1024, 65536])
def test_a_gpu_sets_aside_two_steps_for_its_pool_and_the_memory_of_graphs(length):
    """Graphs decode 64 rows: a layer and the pieces of long contexts, or the logits of all."""
    config, options = config_of("llama-3-8b"), MemoryOptions(length)
    num_pieces = length // 2048 + (length < 2048)
    pieces = 64 * 32 * num_pieces * (128 + 2) * 4
    decoding = layer_bytes(config, BF16, 64) + pieces
    graphs = max(decoding, memory.logits_bytes(config, 64)) + 2**24
    assert (decoding > memory.logits_bytes(config, 64)) == (length > 1024)
    step = activation_bytes(config, BF16, "cpu", options)
    assert activation_bytes(config, BF16, "cuda", options) == 2 * step + graphs


@pytest.mark.parametrize(("free", "limit"), [(40, 36), (80, 72)])
def test_our_own_context_is_no_other_programs_memory(monkeypatch, free, limit):
    """It is counted in the reserve. Of an empty card no more than the card is there."""
    left = free * GIB - memory.CONTEXT_BYTES
    monkeypatch.setattr(memory, "gpu_memory", lambda: (left, 80 * GIB))
    assert plan("gpt2", card=None, length=1024).limit == limit * GIB
    monkeypatch.setattr(memory, "gpu_memory", lambda: (80 * GIB, 80 * GIB))
    assert plan("gpt2", card=None, length=1024).limit == 72 * GIB


def test_weights_and_cache_are_as_large_as_the_arithmetic_has_them(new_llm):
    llm = new_llm(num_blocks=33, block_size=8)
    model = llm.engine.runner.model
    held = [model.embed_tokens, model.final_norm, model.cos, model.sin]
    held += [array for layer in model.layers for array in vars(layer).values()]
    assert llm.memory.needs.weights == sum(array.nbytes for array in held if array is not None)
    assert llm.memory.kv_cache == llm.engine.runner.kv_cache.num_bytes


def test_memory_that_went_after_it_was_counted_is_told_at_load(new_llm, monkeypatch):
    lost = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})

    def load(*_):
        raise lost("Out of memory allocating 9 bytes\n(more lines)")

    monkeypatch.setattr(building, "load_model", load)
    with pytest.raises(EngineError) as caught:
        new_llm(num_blocks=20)
    assert "not enough memory for weights, KV cache and activations of" in caught.value.cause
    assert caught.value.cause.endswith("MiB: Out of memory allocating 9 bytes")
    assert "KV cache" in caught.value.remedy


@pytest.fixture
def live(monkeypatch):
    """Bytes that arrays of the simulator take: now, and at most so far."""
    count = {"now": 0, "most": 0}
    allocate = arrays._poisoned

    def counted(*args):
        array = allocate(*args)
        size = array.nbytes
        count["now"] += size
        count["most"] = max(count["most"], count["now"])
        owner = array if array.base is None else array.base
        weakref.finalize(owner, lambda: count.update(now=count["now"] - size))
        return array

    monkeypatch.setattr(arrays, "_poisoned", counted)
    return count


@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 4, "intermediate_size": 16}])
def test_no_step_holds_more_than_a_layers_widest_moment(tiny_checkpoint, live, shape):
    """Besides, a prompt's token has 3 words of input, its sequence a table, and all are aligned."""
    llm = LLM(tiny_checkpoint(**shape), device="sim", dtype="float32", num_blocks=20)
    runner = llm.engine.runner
    for _ in range(2):  # what is loaded at first use comes with the first
        (sequence,) = new_sequences(runner.kv_cache, list(range(24)))
        live.update(now=0, most=0)
        step = step_of([prefill(sequence.request)])
        batch = runner._writer.write(step, {}, runner._copies).batch
        runner._executor.logits(batch, runner._executor.forward(batch, runner._before()))
    predicted = layer_bytes(llm.config, llm.dtype, 24)
    assert 0.9 * predicted <= live["most"] <= predicted + 1024
