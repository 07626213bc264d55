"""A model on several ranks says the words of a single one, whatever the engine does meanwhile.

The ranks are threads here. Sums over tensor ranks are added in another order than within one
product, so logits may differ in their last bits, and no token does.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest
from on_ranks import answers, on_ranks

from llm_numba import LLM, SamplingParams
from llm_numba.engine import building, step_writer
from llm_numba.engine.request import Sequence
from llm_numba.engine.runner import ModelRunner
from llm_numba.engine.stage import Stage
from llm_numba.errors import CheckpointError, EngineError, LLMNumbaError, ParallelError
from llm_numba.models import Execution
from llm_numba.parallel import Mesh, run_ranks

SPLITS = [(2, 1), (1, 2), (2, 2), (4, 1), (1, 4)]
SAMPLED = {"temperature": 1.0, "top_k": 40, "top_p": 0.95}
KINDS = {
    "greedy": {"temperature": 0.0},
    "sampled": SAMPLED,
    "penalized": SAMPLED | {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    "several samples": SAMPLED | {"n": 3},
    "log-probabilities": SAMPLED | {"logprobs": 3},
}
PROMPTS = [list(range(3, 3 + length)) for length in (1, 20, 33, 7, 12)]


@pytest.fixture
def deep_dir(tiny_checkpoint):
    """Four layers: as many as there may be stages."""
    return tiny_checkpoint(num_hidden_layers=4)


def mixed_params(max_tokens: int = 24) -> list[SamplingParams]:
    """One request of each kind."""
    return [
        SamplingParams(seed=seed, max_tokens=max_tokens, ignore_eos=True, **fields)
        for seed, fields in enumerate(KINDS.values())
    ]


TIGHT = {"num_blocks": 24, "block_size": 4, "max_num_seqs": 6, "max_num_batched_tokens": 9}

every_split = pytest.mark.parametrize(("tp", "pp"), SPLITS, ids=str)


@every_split
@pytest.mark.parametrize(
    ("room", "prefix_caching"),
    [
        ({}, True),
        (TIGHT, True),
        pytest.param({}, False, marks=pytest.mark.slow),
        pytest.param(TIGHT, False, marks=pytest.mark.slow),
    ],
    ids=["roomy", "tight", "roomy, nothing found again", "tight, nothing found again"],
)
def test_every_split_gives_the_words_of_one_rank(deep_dir, tp, pp, room, prefix_caching):
    """Tight: prompts come in pieces, and sequences wait and are stopped for want of blocks."""
    options = {"enable_prefix_caching": prefix_caching, **room}

    def work(llm: LLM):
        # The second time the prefix cache has the prompts.
        found = [answers(llm.generate(PROMPTS, mixed_params(*each))) for each in ((), (4,))]
        stats = llm.stats()
        assert (stats.num_preemptions > 0) is bool(room)
        assert (stats.num_tokens_found > 0) is prefix_caching
        assert stats.num_free_blocks == stats.num_blocks
        return found

    expected = work(LLM(deep_dir, device="cpu", **options))
    assert on_ranks(tp, pp, work, deep_dir, **options) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("tp", "pp"), [*SPLITS, (4, 2), (2, 4)], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "tie_word_embeddings": False},
        {"vocab_size": 269},
        {"num_hidden_layers": 7},
    ],
    ids=lambda shape: " ".join(f"{name}={value}" for name, value in shape.items()) or "usual",
)
@pytest.mark.parametrize("layout", ["megatron", "gather"])
def test_every_split_of_every_shape(tiny_checkpoint, tp, pp, shape, layout):
    directory = tiny_checkpoint(**{"num_hidden_layers": 4} | shape)
    params = mixed_params()

    def work(llm: LLM):
        return answers(llm.generate(PROMPTS, params))

    expected = work(LLM(directory, device="cpu"))
    execution = Execution(tensor_layout=layout)
    assert on_ranks(tp, pp, work, directory, execution=execution, **TIGHT) == expected


@pytest.mark.parametrize(
    ("tp", "pp"),
    [(2, 2), *(pytest.param(*split, marks=pytest.mark.slow) for split in [(2, 1), (1, 4), (4, 1)])],
    ids=str,
)
def test_the_bundled_model_tells_the_same_story(storyteller, tp, pp):
    prompts = ["Once upon a time there was a", "Tom and Anna"]
    greedy = SamplingParams(temperature=0.0, max_tokens=24)
    drawn = SamplingParams(seed=4, max_tokens=24, logprobs=2)

    def work(llm: LLM):
        return answers(llm.generate(prompts, [greedy, drawn]))

    assert on_ranks(tp, pp, work, "storyteller") == work(storyteller)


@every_split
def test_all_logits_are_those_of_one_rank(deep_dir, tp, pp):
    """To 1e-5 of the largest: sums over ranks are added in another order, in float32."""
    text = list(range(1, 40))
    expected = LLM(deep_dir, device="cpu").logits(text)

    def work(llm: LLM):
        tokens = llm.generate([text], SamplingParams(temperature=0.0, max_tokens=3))
        return llm.logits(text), answers(tokens) == answers(
            llm.generate([text], SamplingParams(temperature=0.0, max_tokens=3))
        )

    found, repeats = on_ranks(tp, pp, work, deep_dir)
    assert repeats
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_batch_invariant_ranks_give_the_same_bits_alone_and_together(deep_dir):
    params = [
        SamplingParams(seed=seed, max_tokens=12, ignore_eos=True, logprobs=1, **SAMPLED)
        for seed in range(len(PROMPTS))
    ]

    def work(llm: LLM):
        def bits(outputs):
            return [[each.logprobs for each in output.outputs] for output in outputs]

        alone = [llm.generate([prompt], each) for prompt, each in zip(PROMPTS, params, strict=True)]
        return bits(llm.generate(PROMPTS, params)), [bits(outputs)[0] for outputs in alone]

    together, alone = on_ranks(2, 2, work, deep_dir, batch_invariant=True)
    assert together == alone


def test_streams_may_be_read_in_turn_and_left(deep_dir):
    greedy = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)

    def work(llm: LLM):
        leaving, staying = (llm.stream([prompt], greedy) for prompt in PROMPTS[1:3])
        next(leaving), next(staying), next(leaving)
        leaving.close()
        *_, last = staying
        return last.output.outputs[0].token_ids, llm.stats().num_running

    expected = LLM(deep_dir, device="cpu").generate([PROMPTS[2]], greedy)[0].outputs[0].token_ids
    assert on_ranks(1, 2, work, deep_dir) == (expected, 0)


def test_a_rank_whose_requests_have_all_left_owes_the_others_nothing(deep_dir):
    """Steps were on their way when the last reader left."""

    def work(llm: LLM):
        stream, runner = llm.stream(PROMPTS, [GREEDY] * len(PROMPTS)), llm.engine.runner
        for _ in range(len(PROMPTS) + 2):  # the first tokens are those of one step
            next(stream)
        on_their_way = len(runner._unread)
        stream.close()
        return on_their_way, len(runner._unread), answers(llm.generate(PROMPTS, GREEDY))

    before, after, found = on_ranks(1, 4, work, deep_dir)
    assert (before > 0, after) == (True, 0)
    assert found == answers(LLM(deep_dir, device="cpu").generate(PROMPTS, GREEDY))


# -- What each rank has, and when it may go -----------------------------------------------------


def test_each_rank_plans_its_own_part_and_all_have_as_many_blocks(deep_dir):
    def rank(world):
        with LLM(deep_dir, device="cpu", mesh=Mesh(2, 2, world=world), block_size=4) as llm:
            if not llm.leads:
                llm.follow()
            return llm.memory

    whole = LLM(deep_dir, device="cpu", block_size=4).memory
    plans = run_ranks(4, rank)
    assert {plan.num_blocks for plan in plans} == {whole.num_blocks}
    # Half of the layers, half of the heads.
    assert [plan.block_bytes for plan in plans] == [whole.block_bytes // 4] * 4
    # The tied embedding is there at both ends, and norms on every rank.
    weights = [plan.needs.weights for plan in plans]
    assert whole.needs.weights < sum(weights) < 2 * whole.needs.weights
    assert max(weights) < 0.6 * whole.needs.weights


def test_the_rank_with_the_least_room_decides_on_the_blocks(deep_dir, monkeypatch):
    """As if the third rank's machine had no more memory than 30 of its blocks take."""
    plan = building.plan_memory

    def short(*args, part):
        found = plan(*args, part=part)
        return replace(found, num_blocks=30) if part.partition.tensor.rank else found

    monkeypatch.setattr(building, "plan_memory", short)
    assert on_ranks(2, 1, lambda llm: llm.stats().num_blocks, deep_dir) == 30


def test_a_rank_that_follows_takes_no_requests(deep_dir):
    def rank(world):
        with LLM(deep_dir, device="cpu", mesh=Mesh(2, 1, world=world)) as llm:
            refused = llm.follow if llm.leads else lambda: llm.generate([[1, 2]])
            with pytest.raises(ParallelError) as caught:
                refused()
            if not llm.leads:
                llm.follow()
            return str(caught.value)

    leader, follower = run_ranks(2, rank)
    assert "This rank leads" in leader
    assert "llm.follow()" in follower


def test_after_the_others_were_let_go_there_is_nobody_to_ask(deep_dir):
    def work(llm: LLM):
        llm.close()
        llm.close()
        with pytest.raises(EngineError, match="were let go"):
            llm.generate([[1, 2]])

    on_ranks(2, 1, work, deep_dir)


def test_a_mesh_of_one_rank_is_no_mesh(deep_dir):
    with LLM(deep_dir, device="cpu", mesh=Mesh()) as llm:
        assert type(llm.engine.runner) is ModelRunner
        assert llm.leads


# -- What goes wrong ----------------------------------------------------------------------------


def refused_by_all(deep_dir, tp: int, pp: int, **options) -> LLMNumbaError:
    """The error that all ranks raise when they load a model."""

    def rank(world):
        with pytest.raises(LLMNumbaError) as caught:
            LLM(deep_dir, **{"device": "cpu"} | options, mesh=Mesh(tp, pp, world=world))
        return caught.value

    errors = run_ranks(tp * pp, rank)
    assert len({str(error) for error in errors}) == 1
    return errors[0]


@pytest.mark.parametrize(
    ("tp", "pp", "options", "words"),
    [
        (3, 1, {}, "query heads do not divide"),
        (1, 5, {}, "4 layers cannot be divided among 5"),
        (2, 1, {"persistent": True}, "persistent"),
        (2, 1, {"num_blocks": 1}, "num_blocks=1"),
        (2, 1, {"max_num_seqs": 0}, "max_num_seqs=0"),
    ],
)
def test_what_cannot_be_divided_is_refused_on_all_ranks(deep_dir, tp, pp, options, words):
    assert words in str(refused_by_all(deep_dir, tp, pp, **options))


def test_a_mistake_of_one_rank_is_raised_on_all(deep_dir, monkeypatch):
    load = building.load_model

    def failing(*args):
        if args[-1].tensor.rank == 1:
            raise CheckpointError("The file is damaged here.", "Copy it again.")
        return load(*args)

    monkeypatch.setattr(building, "load_model", failing)
    assert "damaged here" in str(refused_by_all(deep_dir, 2, 1))


GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2)], ids=str)
def test_what_fails_before_a_step_is_told_leaves_all_ranks_together(deep_dir, tp, pp, monkeypatch):
    lay_out, calls = step_writer.batch_inputs, iter(range(10**6))

    def failing(*args):
        if next(calls) == 3:
            raise RuntimeError("the bus fell off")
        return lay_out(*args)

    def work(llm: LLM):
        monkeypatch.setattr(step_writer, "batch_inputs", failing)
        with pytest.raises(EngineError, match="the bus fell off"):
            llm.generate(PROMPTS, GREEDY)
        return answers(llm.generate(PROMPTS, GREEDY))

    expected = answers(LLM(deep_dir, device="cpu").generate(PROMPTS, GREEDY))
    assert on_ranks(tp, pp, work, deep_dir) == expected


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2)], ids=str)
@pytest.mark.parametrize("call", [0, 1, 6])
def test_ctrl_c_between_steps_leaves_all_ranks_together(deep_dir, tp, pp, call, monkeypatch):
    append, calls = Sequence.append, iter(range(10**6))

    def failing(*args):
        if next(calls) == call:
            raise KeyboardInterrupt
        append(*args)

    def work(llm: LLM):
        monkeypatch.setattr(Sequence, "append", failing)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPTS, GREEDY)
        return answers(llm.generate(PROMPTS, GREEDY)), llm.stats().num_running

    expected = answers(LLM(deep_dir, device="cpu").generate(PROMPTS, GREEDY))
    assert on_ranks(tp, pp, work, deep_dir) == (expected, 0)


def test_logits_that_are_no_numbers_end_their_request_alone(deep_dir, monkeypatch):
    def work(llm: LLM):
        expected = answers(llm.generate(PROMPTS[:2], GREEDY))
        model = llm.engine.runner.model
        scores, calls = model.scores, iter(range(10**6))

        def broken(hidden):
            found = scores(hidden)
            if next(calls) == 2:
                found[1] = np.nan
            return found

        monkeypatch.setattr(model, "scores", broken)
        fine, ended = llm.generate(PROMPTS[:2], GREEDY)
        assert answers([fine]) == expected[:1]
        return str(ended.error)

    assert "not finite" in on_ranks(2, 1, work, deep_dir)


def test_a_step_that_fails_on_the_leader_is_the_end(deep_dir, monkeypatch):
    """Where the error was caught, nothing more can be asked, and the others hear of the end."""

    def work(llm: LLM):
        monkeypatch.setattr(llm.engine.runner.model, "forward", lambda *_: 1 // 0)
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            llm.generate([[1, 2]], GREEDY)
        with pytest.raises(EngineError, match="Start all ranks again"):
            llm.generate([[1, 2]], GREEDY)

    with pytest.raises(ParallelError, match="Rank 0 returned without"):
        on_ranks(2, 1, work, deep_dir)


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2)], ids=str)
def test_a_step_that_fails_elsewhere_ends_the_leader_too(deep_dir, tp, pp, monkeypatch):
    seen = []

    def failing(self, inputs):
        if threading.current_thread().name == "rank 1":
            raise RuntimeError("rank 1 lost its memory")
        return compute(self, inputs)

    def work(llm: LLM):
        try:
            llm.generate([[1, 2]], GREEDY)
        except EngineError as error:
            seen.append(str(error))
            raise

    compute = Stage.compute
    monkeypatch.setattr(Stage, "compute", failing)
    with pytest.raises(RuntimeError, match="rank 1 lost its memory"):
        on_ranks(tp, pp, work, deep_dir)
    assert "Rank 1" in seen[0]
