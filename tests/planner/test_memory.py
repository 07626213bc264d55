"""Memory of a rank: the engine's own arithmetic, on the rank's part."""

from dataclasses import replace

import pytest

from llm_numba.engine.memory import MemoryOptions, Part, plan_memory
from llm_numba.errors import CacheError, EngineError
from llm_numba.planner import cut, plan_stages, rank_memory

from .conftest import BFLOAT16, shape

CARD = 80 * 2**30


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "llama-3-8b", "qwen3-0.6b"])
@pytest.mark.parametrize(("batch", "context"), [(1, 1), (1, 1024), (64, 1000), (17, 333)])
def test_on_one_gpu_it_is_the_plan_of_the_engine(name, batch, context):
    config = shape(name)
    options = MemoryOptions(max_model_len=context, max_num_seqs=batch)
    (mine,) = plan_stages(cut(config), BFLOAT16, options, CARD)
    theirs = plan_memory(config, BFLOAT16, "cuda", options, CARD)
    assert mine.buffers == 0
    assert (mine.weights, mine.activations, mine.reserve) == (
        theirs.needs.weights,
        theirs.needs.activations,
        theirs.needs.reserve,
    )
    assert (mine.blocks_needed, mine.kv) == (theirs.num_blocks, theirs.kv_cache)
    assert (mine.taken, mine.limit) == (theirs.taken, theirs.limit)


@pytest.mark.parametrize(("name", "tp", "pp"), [("llama-3-70b", 8, 4), ("gpt2", 3, 5)])
def test_on_many_gpus_a_rank_takes_what_its_engine_plans_and_buffers(name, tp, pp):
    config = shape(name)
    options = MemoryOptions(max_model_len=1000, max_num_seqs=9)
    split = cut(config, tp, pp)
    for stage in range(pp):
        for rank in (split.rank(stage, p) for p in range(tp)):
            mine = rank_memory(split, rank, BFLOAT16, options, CARD)
            part = Part(rank.partition, ranks_on_host=1)
            theirs = plan_memory(config, BFLOAT16, "cuda", options, CARD, part)
            assert mine.weights == theirs.needs.weights
            assert mine.activations == theirs.needs.activations
            assert mine.kv == theirs.kv_cache
            assert mine.taken == theirs.taken + mine.buffers


@pytest.mark.parametrize("batch", [1, 30, 60, 90])
def test_on_one_gpu_as_many_blocks_fit_as_the_engine_takes(batch):
    config = shape("llama-3-8b")
    options = MemoryOptions(max_model_len=8192, max_num_seqs=batch)
    split = cut(config)
    mine = rank_memory(split, split.rank(0, 0), BFLOAT16, options, CARD)
    theirs = plan_memory(config, BFLOAT16, "cuda", options, CARD)
    assert min(mine.blocks_needed, mine.blocks_affordable) == theirs.num_blocks
    assert mine.fits == (mine.blocks_needed <= mine.blocks_affordable)


def test_a_rank_of_70b_by_hand():
    config = shape("llama-3-70b")
    split = cut(config, tp=8, pp=4)
    options = MemoryOptions(max_model_len=4096, max_num_seqs=32)
    memory = rank_memory(split, split.rank(1, 0), BFLOAT16, options, CARD)
    # Two bytes a parameter; RoPE's table of 4,096 positions, D = 128, in float32.
    assert memory.weights == 2 * split.rank(1, 0).num_parameters + 4096 * 128 * 4
    # Keys and values of 21 layers, one KV head of 128, 16 tokens a block, one block to spare.
    assert memory.kv == (32 * 256 + 1) * 16 * 2 * 21 * 128 * 2
    # All-reduce, from the stage before, to the stage behind: two of 2,048 rows each.
    assert memory.buffers == 3 * 2 * 2048 * 8192 * 2
    ends = [rank_memory(split, split.rank(r, 0), BFLOAT16, options, CARD) for r in (0, 3)]
    assert [each.buffers for each in ends] == [2 * 2 * 2048 * 8192 * 2] * 2


def test_only_the_last_stage_has_logits():
    config = replace(shape("llama-3-8b"), vocab_size=2**20)
    split = cut(config, pp=2)
    options = MemoryOptions(max_model_len=128, max_num_seqs=64, max_num_batched_tokens=64)
    first, last = (
        rank_memory(split, split.rank(stage, 0), BFLOAT16, options, CARD) for stage in (0, 1)
    )
    logits = 64 * 4 * 2**20
    assert first.activations < logits < last.activations


@pytest.mark.parametrize(
    ("tp", "batch", "context", "words"),
    [
        (1, 1, 128, ["stage 0", "weights 131.4 GiB", "Raise tp or pp"]),
        (4, 256, 8192, ["tp=4", "Lower the batch to at most"]),
        (2, 2, 8192, ["Not one sequence fits"]),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(tp, batch, context, words):
    options = MemoryOptions(max_model_len=context, max_num_seqs=batch)
    card = 805 * 10**8 if tp == 2 else CARD
    with pytest.raises(EngineError) as caught:
        plan_stages(cut(shape("llama-3-70b"), tp), BFLOAT16, options, card)
    for word in words:
        assert word in str(caught.value)


def test_the_batch_that_is_advised_fits_and_one_more_does_not():
    split = cut(shape("llama-3-70b"), tp=4)

    def options(batch):
        return MemoryOptions(max_model_len=8192, max_num_seqs=batch)

    few = rank_memory(split, split.rank(0, 0), BFLOAT16, options(8), CARD)
    fitting = next(
        batch
        for batch in range(8, 200)
        if not rank_memory(split, split.rank(0, 0), BFLOAT16, options(batch + 1), CARD).fits
    )
    assert few.fits
    plan_stages(split, BFLOAT16, options(fitting), CARD)
    with pytest.raises((EngineError, CacheError)):
        plan_stages(split, BFLOAT16, options(fitting + 1), CARD)
