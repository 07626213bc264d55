"""Streams: chunks join to the answer, take turns, and leave nothing behind however they end."""

from collections.abc import Callable

import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.engine.outputs import CompletionChunk, RequestOutput
from llm_numba.engine.request import Sequence
from llm_numba.engine.runner import ModelRunner
from llm_numba.errors import EngineError
from llm_numba.kvcache import BlockTable


def greedy(**fields) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 12, "ignore_eos": True, **fields})


def joined(chunks: list[CompletionChunk], index: int = 0) -> tuple[str, list[int]]:
    mine = [chunk for chunk in chunks if chunk.index == index]
    return "".join(c.text for c in mine), [i for c in mine for i in c.token_ids]


# -- Chunks -----------------------------------------------------------------------------------


def test_chunks_join_to_the_answer_that_generate_gives(tiny_llm: LLM):
    chunks = list(tiny_llm.stream("Tom lost", greedy()))
    answer = tiny_llm.generate("Tom lost", greedy())[0].outputs[0]
    assert joined(chunks) == (answer.text, answer.token_ids)
    assert len(chunks) == 12, "one a token"


def test_the_last_chunk_alone_carries_the_whole(tiny_llm: LLM):
    *others, last = tiny_llm.stream("Tom lost", greedy())
    assert all(chunk.output is None and chunk.finish_reason is None for chunk in others)
    assert last.finish_reason == "length"
    assert isinstance(last.output, RequestOutput)
    assert last.output.finished
    assert last.output.prompt == "Tom lost"


def test_the_samples_of_a_request_come_side_by_side(tiny_llm: LLM):
    params = greedy(n=3, temperature=1.0, seed=4)
    chunks = list(tiny_llm.stream("Tom lost", params))
    answers = tiny_llm.generate("Tom lost", params)[0].outputs
    assert [chunk.index for chunk in chunks[:6]] == [0, 1, 2, 0, 1, 2]
    for answer in answers:
        assert joined(chunks, answer.index) == (answer.text, answer.token_ids)
    assert sum(chunk.output is not None for chunk in chunks) == 1
    assert chunks[-1].output.outputs == answers


def test_several_prompts_stream_together_each_with_its_own_end(tiny_llm: LLM):
    lengths = [4, 12, 1]
    params = [greedy(max_tokens=n) for n in lengths]
    prompts = ["a", "bb", "ccc"]
    chunks = list(tiny_llm.stream(prompts, params))
    ends = {chunk.output.prompt: chunk.output for chunk in chunks if chunk.output}
    assert set(ends) == set(prompts)
    for prompt, length in zip(prompts, lengths, strict=True):
        output = ends[prompt]
        mine = [chunk for chunk in chunks if chunk.request_id == output.request_id]
        assert len(mine) == length
        assert joined(mine) == (output.outputs[0].text, output.outputs[0].token_ids)


# -- Turns ------------------------------------------------------------------------------------


def test_streams_read_in_turn_share_steps_and_give_what_each_gives_alone(
    tiny_llm: LLM, monkeypatch
):
    prompts = ["Tom", "Anna has a hat", "x" * 30]
    alone = [tiny_llm.generate(p, greedy())[0].outputs[0].token_ids for p in prompts]
    model = tiny_llm.engine.runner.model
    sizes, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda batch, kv: sizes.append(len(batch.token_ids)) or forward(batch, kv)
    )
    streams = [tiny_llm.stream(p, greedy()) for p in prompts]
    turns = [list(turn) for turn in zip(*streams, strict=True)]
    assert [joined([turn[i] for turn in turns])[1] for i in range(3)] == alone
    assert max(sizes[3:]) == 3, "one token of each stream in a step"
    assert len(sizes) < 3 * 12


def test_a_stream_left_alone_is_carried_along_and_read_later(tiny_llm: LLM):
    alone = tiny_llm.generate("Anna", greedy())[0].outputs[0]
    waiting = tiny_llm.stream("Anna", greedy())
    first = next(waiting)
    tiny_llm.generate("Tom lost the ball", greedy(max_tokens=30))
    assert joined([first, *waiting]) == (alone.text, alone.token_ids)


def test_no_chunk_is_lost_of_a_request_that_ends_while_another_of_its_stream_is_read(
    tiny_llm: LLM,
):
    """Whoever reads the second prompt's chunk lets all the steps happen before going on."""
    prompts = ["Tom", "Anna"]
    alone = [tiny_llm.generate(prompt, greedy())[0].outputs[0].token_ids for prompt in prompts]
    stream = tiny_llm.stream(prompts, greedy())
    chunks = [next(stream), next(stream)]
    tiny_llm.generate("Zoe", greedy(max_tokens=40))
    chunks += stream
    for request_id, expected in zip(
        sorted({c.request_id for c in chunks}, key=int), alone, strict=True
    ):
        assert joined([c for c in chunks if c.request_id == request_id])[1] == expected


def test_a_stream_does_nothing_before_its_first_chunk_is_asked_for(tiny_llm: LLM, blocks_in_use):
    stream = tiny_llm.stream("Tom lost", greedy())
    tiny_llm.generate("Anna", greedy(max_tokens=1))
    assert blocks_in_use(tiny_llm) == 0
    stream.close()


def test_logits_can_be_asked_for_while_a_stream_is_running(tiny_llm: LLM):
    expected = tiny_llm.logits([1, 2, 3])
    alone = tiny_llm.generate("Tom lost", greedy())[0].outputs[0]
    stream = tiny_llm.stream("Tom lost", greedy())
    first = next(stream)
    assert (tiny_llm.logits([1, 2, 3]) == expected).all()
    assert joined([first, *stream]) == (alone.text, alone.token_ids)


# -- Ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [0, 1, 5])
@pytest.mark.parametrize("fields", [{}, {"n": 3, "temperature": 1.0}], ids=["one", "three"])
def test_a_stream_closed_early_gives_its_blocks_back(tiny_llm: LLM, blocks_in_use, read, fields):
    stream = tiny_llm.stream(["Tom lost the ball", "x" * 40], greedy(**fields))
    for _ in range(read):
        next(stream)
    assert (blocks_in_use(tiny_llm) > 0) == (read > 0)
    stream.close()
    assert blocks_in_use(tiny_llm) == 0


def test_a_stream_that_nobody_holds_gives_its_blocks_back(tiny_llm: LLM, blocks_in_use):
    stream = tiny_llm.stream("Tom lost the ball", greedy())
    next(stream)
    del stream
    assert blocks_in_use(tiny_llm) == 0


def test_closing_one_stream_leaves_the_others_their_answers(tiny_llm: LLM):
    alone = tiny_llm.generate("Anna", greedy())[0].outputs[0]
    kept, closed = tiny_llm.stream("Anna", greedy()), tiny_llm.stream("Tom", greedy())
    first = next(kept)
    next(closed)
    closed.close()
    assert joined([first, *kept]) == (alone.text, alone.token_ids)


@pytest.mark.parametrize("call", range(3, 11))
@pytest.mark.parametrize(
    ("owner", "name"),
    [(BlockTable, "append_slots"), (ModelRunner, "submit"), (Sequence, "append")],
    ids=["scheduling", "computing", "taking tokens"],
)
def test_a_stream_closed_in_the_middle_of_a_step_leaves_the_others_their_answers(
    new_llm, blocks_in_use, monkeypatch, owner, name, call
):
    """The interpreter closes streams that nobody holds, if they are in a cycle, when it likes."""
    llm = new_llm(block_size=4)
    alone = llm.generate("Anna", greedy())[0].outputs[0]
    works, calls = getattr(owner, name), iter(range(10**6))
    closed, kept = llm.stream("Tom lost", greedy(max_tokens=50)), llm.stream("Anna", greedy())

    def closing(*args):
        if next(calls) == call:
            closed.close()
        return works(*args)

    monkeypatch.setattr(owner, name, closing)
    next(closed)
    assert joined(list(kept)) == (alone.text, alone.token_ids)
    assert next(calls) > call
    assert blocks_in_use(llm) == 0


def test_a_stream_closed_while_it_waits_leaves_the_queue(new_llm, blocks_in_use):
    llm = new_llm(max_num_seqs=1)
    running = llm.stream("Anna", greedy())
    next(running)
    both = llm.stream(["Tom", "Zoe"], greedy())
    next(both)
    both.close()
    list(running)
    assert blocks_in_use(llm) == 0
    assert llm.stats().num_waiting == 0


# -- Failures ---------------------------------------------------------------------------------


@pytest.fixture
def fail_once(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the model's forward pass fail once, in the given call, behind a layer or before it."""

    def arrange(llm: LLM, failure: BaseException, call: int, *, written: bool = True) -> None:
        model = llm.engine.runner.model
        forward, calls = model.forward, iter(range(10**6))

        def failing(batch, kv_cache):
            if next(calls) != call:
                return forward(batch, kv_cache)
            if written:
                forward(batch, kv_cache)
            raise failure

        monkeypatch.setattr(model, "forward", failing)

    return arrange


FAILURES = pytest.mark.parametrize(
    "failure",
    [RuntimeError("broken"), MemoryError(), KeyboardInterrupt()],
    ids=["error", "memory", "Ctrl-C"],
)


@FAILURES
@pytest.mark.parametrize("call", [0, 1, 7], ids=["prompt", "first step", "later"])
@pytest.mark.parametrize("written", [False, True], ids=["before", "behind"])
def test_a_failure_in_the_model_leaves_a_usable_engine_and_no_block_in_use(
    tiny_llm: LLM, blocks_in_use, fail_once, failure, call, written
):
    prompts = ["Tom lost the ball", "x" * 40]
    params = greedy(n=2, temperature=1.0, seed=1)
    expected = [output.outputs for output in tiny_llm.generate(prompts, params)]
    fail_once(tiny_llm, failure, call, written=written)
    # Ctrl-C is nobody's error; what Python raises becomes the cause of one of ours.
    expected_type = EngineError if isinstance(failure, Exception) else type(failure)
    with pytest.raises(expected_type) as caught:
        tiny_llm.generate(prompts, params)
    assert failure in (caught.value, caught.value.__cause__)
    assert blocks_in_use(tiny_llm) == 0
    assert [output.outputs for output in tiny_llm.generate(prompts, params)] == expected


def test_ctrl_c_in_a_step_that_two_streams_share_ends_only_the_one_that_took_it(
    tiny_llm: LLM, blocks_in_use, fail_once
):
    alone = tiny_llm.generate("Anna", greedy())[0].outputs[0]
    fail_once(tiny_llm, KeyboardInterrupt(), call=4)
    kept, broken = tiny_llm.stream("Anna", greedy()), tiny_llm.stream("Tom", greedy())
    first = next(kept)
    with pytest.raises(KeyboardInterrupt):
        list(broken)
    assert joined([first, *kept]) == (alone.text, alone.token_ids)
    assert blocks_in_use(tiny_llm) == 0


def test_an_exception_of_the_reader_ends_the_stream(tiny_llm: LLM, blocks_in_use):
    stream = tiny_llm.stream("Tom lost", greedy())
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())
    assert blocks_in_use(tiny_llm) == 0


def test_logits_that_fail_leave_no_block_in_use(tiny_llm: LLM, blocks_in_use, fail_once):
    fail_once(tiny_llm, KeyboardInterrupt(), call=0)
    with pytest.raises(KeyboardInterrupt):
        tiny_llm.logits([1] * 50)
    assert blocks_in_use(tiny_llm) == 0
    assert tiny_llm.logits([1] * 50).shape == (50, 272)
