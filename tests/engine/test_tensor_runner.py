"""Ranks that share all layers do what one GPU does: a step ahead, with tokens in flight.

There is no GPU here. The simulator stands for it, and ranks are threads. These communicate by the
host, so the graphs of their steps are in pieces: see test_parallel_graphs.py.
"""

import pytest
from on_ranks import answers, on_ranks
from simulated_graphs import take_for_gpus

from llm_numba import LLM, SamplingParams
from llm_numba.engine.tensor_runner import TensorRunner
from llm_numba.errors import ParallelError
from llm_numba.parallel import Mesh, run_ranks

KINDS = (
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 30, "seed": 3},
    {"temperature": 1.0, "repetition_penalty": 1.3, "seed": 5, "logprobs": 1},
    {"temperature": 1.0, "seed": 7, "n": 2},
)
PROMPTS = [[3, 4, 5], [200], [9, 8, 7, 6, 5, 4, 3], [31, 32]]


@pytest.fixture(autouse=True)
def _as_on_gpus(monkeypatch):
    take_for_gpus(monkeypatch)


def params(max_tokens: int) -> list[SamplingParams]:
    return [SamplingParams(**kind, max_tokens=max_tokens, ignore_eos=True) for kind in KINDS]


@pytest.mark.slow
def test_two_ranks_say_the_words_of_the_cpu_a_step_ahead(tiny_checkpoint):
    directory = tiny_checkpoint(num_hidden_layers=1)

    def work(llm: LLM):
        if llm.device == "sim":
            assert isinstance(llm.engine.runner, TensorRunner)
            assert llm.engine.runner.depth == 1
        # Greedy alone is drawn from parts of the vocabulary, the others from all of it.
        alone = llm.generate(PROMPTS[0], SamplingParams(temperature=0.0, max_tokens=3))
        return answers(alone), answers(llm.generate(PROMPTS, params(3)))

    expected = work(LLM(directory, device="cpu"))
    assert on_ranks(2, 1, work, directory, device="sim", max_num_seqs=6) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "room", [{}, {"num_blocks": 12, "max_model_len": 40, "max_num_batched_tokens": 5}], ids=str
)
def test_four_ranks_short_of_blocks_say_the_words_of_the_cpu(tiny_checkpoint, room):
    """Blocks that samples share are copied on all ranks; sequences are stopped and begin again."""
    directory = tiny_checkpoint(num_hidden_layers=1, num_key_value_heads=4)
    options = {"block_size": 4, "max_num_seqs": 6, **room}

    def work(llm: LLM):
        return answers(llm.generate(PROMPTS, params(9)))

    expected = work(LLM(directory, device="cpu", block_size=4))
    assert on_ranks(4, 1, work, directory, device="sim", **options) == expected


def test_ranks_that_were_let_go_or_have_parted_take_no_more_steps(tiny_dir, monkeypatch):
    def rank(world):
        with LLM(tiny_dir, device="sim", mesh=Mesh(2, world=world), max_num_seqs=1) as llm:
            if not llm.leads:
                llm.follow()
                return None
            llm.close()
            with pytest.raises(ParallelError, match="were let go"):
                llm.logits([1, 2])
            return llm.engine.runner

    runner, _ = run_ranks(2, rank)
    monkeypatch.setattr(runner._leader, "_is_open", True)
    with pytest.raises(KeyError), runner._leader.together():
        raise KeyError
    with pytest.raises(ParallelError, match="are at different places now"):
        runner.all_logits([1], None)
