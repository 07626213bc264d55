"""Graphs of ranks, cut where the host takes part: between stages, and in the sums of a stage.

There is no GPU here. The simulator stands for it, and ranks are threads.
"""

import ml_dtypes
import numpy as np
import pytest
from on_ranks import answers, on_ranks
from simulated_graphs import take_for_gpus

from llm_numba import LLM, SamplingParams
from llm_numba.engine.decode_graphs import all_buckets
from llm_numba.engine.decode_rows import Bucket
from llm_numba.parallel import mesh, messages, run_ranks
from llm_numba.parallel.messages import MessageCommunicator
from llm_numba.runtime import capture, to_device, to_host, write_to

KINDS = (
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 30, "seed": 3},
    {"temperature": 1.0, "repetition_penalty": 1.3, "seed": 5, "logprobs": 1},
    {"temperature": 1.0, "seed": 7, "n": 2},
)
PROMPTS = [[3, 4, 5], [200], [9, 8, 7, 6, 5, 4, 3], [31, 32]]
GREEDY = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)


@pytest.fixture(autouse=True)
def _as_on_gpus(monkeypatch):
    take_for_gpus(monkeypatch)


def by_messages(group, *_):
    return MessageCommunicator(group) if group.size > 1 else group


def say(llm: LLM):
    """What it says, and of how many pieces a step of rank 0 is."""
    return answers(llm.generate([3, 4, 5], GREEDY)), llm.engine.runner.num_pieces


@pytest.mark.parametrize("connect", [None, by_messages])
def test_what_ranks_exchange_cuts_their_graphs(tiny_checkpoint, monkeypatch, connect):
    """Once for the embedding, twice a layer, once for the best token."""
    directory = tiny_checkpoint(num_hidden_layers=1)
    if connect:
        monkeypatch.setattr(mesh, "connect", connect)
    expected, none = say(LLM(directory, device="cpu"))
    assert none == 0
    options = {"device": "sim", "max_num_seqs": 1}
    assert on_ranks(2, 1, say, directory, **options) == (expected, 2 * 1 + 3)
    assert on_ranks(2, 1, say, directory, **options, enforce_eager=True) == (expected, 0)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("few_bytes", [0, 1 << 20], ids=["long", "short"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_operations_made_of_messages_do_in_replays_what_they_do_at_once(
    monkeypatch, ranks, few_bytes, dtype
):
    """With new numbers each time: no rank has looked at those that were there in the capture."""
    monkeypatch.setattr(messages, "FEW_BYTES", few_bytes)
    shape = (ranks, 37)

    def rank(world):
        comm = MessageCommunicator(world)
        rng = np.random.default_rng(world.rank)
        x = to_device(np.zeros(shape, dtype), "sim")
        results = []

        def work():
            part = comm.reduce_scatter(x)
            results[:] = [
                comm.all_gather(part),
                comm.broadcast(part, ranks - 1),
                comm.all_reduce(x),
            ]

        graph = capture(work)
        replayed = list(results)
        for _ in range(2):
            numbers = rng.normal(size=shape).astype(dtype)
            write_to(x, numbers)
            graph.launch()
            found = [to_host(each) for each in replayed]
            write_to(x, numbers)
            work()
            for each, expected in zip(found, results, strict=True):
                assert each.tobytes() == to_host(expected).tobytes()
        return graph.num_pieces

    assert all(pieces > 1 for pieces in run_ranks(ranks, rank))


@pytest.mark.parametrize(("tp", "pieces"), [(1, 1), (2, 1 + 1 + 2 * 1)], ids=str)
def test_a_stage_is_a_graph_between_what_it_receives_and_what_it_sends(tiny_checkpoint, tp, pieces):
    """Of two layers each has one. With two ranks the first is cut by the embedding and its sums."""
    directory = tiny_checkpoint(num_hidden_layers=2)
    expected, _ = say(LLM(directory, device="cpu"))
    options = {"device": "sim", "max_num_seqs": 1}
    assert on_ranks(tp, 2, say, directory, **options) == (expected, pieces)


def test_stages_are_warm_when_all_their_graphs_are_captured(tiny_checkpoint):
    directory = tiny_checkpoint(num_hidden_layers=2)
    options = {"block_size": 16, "max_num_seqs": 2, "max_model_len": 32}

    def work(llm: LLM):
        seen = []
        if llm.device == "sim":
            llm.warm_up(lambda done, total: seen.append((done, total)))
        graphs = llm.stage and dict(llm.stage.decode._graphs)
        found = answers(llm.generate(PROMPTS[0], GREEDY))
        assert graphs is None or llm.stage.decode._graphs == graphs
        return found, seen

    expected, _ = work(LLM(directory, device="cpu"))
    found, seen = on_ranks(1, 2, work, directory, device="sim", **options)
    assert found == expected
    count = len(all_buckets(Bucket(2, 2)))
    assert seen == [(done, count) for done in range(1, count + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("enforce_eager", [False, True])
@pytest.mark.parametrize(("tp", "pp"), [(1, 2), (2, 2), (1, 3)], ids=str)
def test_stages_that_decode_by_graphs_say_the_words_of_the_cpu(
    tiny_checkpoint, tp, pp, enforce_eager
):
    """Groups that take turns, of all kinds; samples share blocks, and sequences are stopped."""
    directory = tiny_checkpoint(num_hidden_layers=3)
    room = {"num_blocks": 14, "max_model_len": 40, "max_num_batched_tokens": 12}
    params = [SamplingParams(**kind, max_tokens=9, ignore_eos=True) for kind in KINDS]

    def work(llm: LLM):
        alone = llm.generate(PROMPTS[0], GREEDY)
        return answers(alone), answers(llm.generate(PROMPTS, params))

    expected = work(LLM(directory, device="cpu", block_size=4))
    options = {"block_size": 4, "max_num_seqs": 6, "enforce_eager": enforce_eager, **room}
    assert on_ranks(tp, pp, work, directory, device="sim", **options) == expected
