"""Ranks that run the kernels say the words of the CPU; and each needs a device of its own."""

import pytest
from on_ranks import answers, on_ranks

from llm_numba import LLM, SamplingParams
from llm_numba.errors import ParallelError
from llm_numba.models.tensor_parallel import TensorParallel
from llm_numba.parallel import Mesh, run_ranks
from llm_numba.parallel.messages import MessageCommunicator

PROMPTS = [[3, 4, 5], [200, 7]]


def work(llm: LLM):
    drawn = SamplingParams(seed=1, max_tokens=2, top_k=20, ignore_eos=True)
    greedy = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    return answers(llm.generate(PROMPTS, [greedy, drawn]))


@pytest.mark.slow
@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2)], ids=str)
def test_ranks_in_the_simulator_say_the_words_of_the_cpu(tiny_checkpoint, tp, pp):
    directory = tiny_checkpoint()
    expected = work(LLM(directory, device="cpu"))
    assert on_ranks(tp, pp, work, directory, device="sim") == expected


@pytest.mark.slow
def test_the_sums_of_ranks_may_be_kernels_too(tiny_checkpoint, monkeypatch):
    """By the path that adds where the arrays lie."""
    directory = tiny_checkpoint(num_hidden_layers=1)
    as_it_was = TensorParallel.__init__

    def by_messages(self, config, execution, partition):
        as_it_was(self, config, execution, partition)
        self.tensor = MessageCommunicator(self.tensor)

    def short(llm: LLM):
        return answers(llm.generate([[3, 4]], SamplingParams(temperature=0.0, max_tokens=2)))

    expected = short(LLM(directory, device="cpu"))
    monkeypatch.setattr(TensorParallel, "__init__", by_messages)
    assert on_ranks(2, 1, short, directory, device="sim") == expected


def test_more_ranks_than_gpus_are_refused_before_anything_is_loaded(tiny_dir, monkeypatch):
    monkeypatch.setattr("llm_numba.parallel.mesh.visible_gpus", lambda: ("the only one",))
    monkeypatch.setattr("llm_numba.engine.building.load_model", None)
    with pytest.raises(ParallelError, match="which shows them 1 GPU; each rank needs one"):
        run_ranks(2, lambda world: LLM(tiny_dir, device="cuda", mesh=Mesh(2, world=world)))


def test_ranks_that_compute_on_different_devices_are_told_so(tiny_dir):
    def rank(world):
        LLM(tiny_dir, device=("cpu", "sim")[world.rank], mesh=Mesh(2, world=world))

    with pytest.raises(ParallelError, match="Rank 1 differs from rank 0 in the device: 'sim', and"):
        run_ranks(2, rank)
