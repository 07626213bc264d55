"""Chat sessions keep the cache between turns and never change an answer."""

from collections.abc import Callable

import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.engine.outputs import RequestOutput
from llm_numba.engine.session import ChatSession
from llm_numba.errors import EngineError

Message = dict[str, str]


def params(**fields) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 5, "ignore_eos": True, **fields})


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def cached_after(first: RequestOutput, second: RequestOutput) -> int:
    """How much of the second prompt the first turn left in the cache.

    All tokens of the first turn but the last, whose key was never needed; as far as the second
    prompt goes with them; and never the second prompt's last token, whose logits are needed.
    """
    kept = (first.prompt_token_ids + first.outputs[0].token_ids)[:-1]
    length = 0
    for old, new in zip(kept, second.prompt_token_ids[:-1], strict=False):
        if old != new:
            break
        length += 1
    return length


@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "seeded"])
def test_the_next_turns_use_the_cache_and_answer_as_without_it(
    new_llm, blocks_in_use, block_size, fields
):
    llm = new_llm(block_size=block_size)
    session = llm.chat_session()
    messages, outputs = [], []
    for content in ("Hi", "Who?", "Bye"):
        messages = [*messages, user(content)]
        output = llm.chat(messages, params(**fields), session=session)
        fresh = llm.chat(messages, params(**fields))
        assert output.outputs == fresh.outputs
        assert fresh.metrics.num_cached_tokens == 0
        expected = cached_after(outputs[-1], output) if outputs else 0
        assert output.metrics.num_cached_tokens == expected
        outputs.append(output)
        messages = [*messages, assistant(output.outputs[0].text)]
    assert outputs[1].metrics.num_cached_tokens >= len(outputs[0].prompt_token_ids)
    assert blocks_in_use(llm) > 0
    session.close()
    assert blocks_in_use(llm) == 0


def test_only_what_is_not_cached_is_computed(new_llm, monkeypatch):
    llm = new_llm()
    model = llm._engine._runner.model
    sizes, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda batch, kv: sizes.append(len(batch.token_ids)) or forward(batch, kv)
    )
    session = llm.chat_session()
    first = llm.chat([user("Hi")], params(), session=session)
    conversation = [user("Hi"), assistant(first.outputs[0].text), user("Bye")]
    sizes.clear()
    second = llm.chat(conversation, params(), session=session)
    cached = second.metrics.num_cached_tokens
    assert cached > 0
    assert sizes[0] == len(second.prompt_token_ids) - cached


def test_an_edited_history_falls_back_to_what_it_has_in_common(new_llm):
    llm = new_llm(block_size=4)
    session = llm.chat_session()
    first = llm.chat([user("Tom lost the ball")], params(), session=session)
    edited = [user("Tom found it"), assistant("Good"), user("Who?")]
    second = llm.chat(edited, params(), session=session)
    assert second.metrics.num_cached_tokens == len("<s><user>Tom ") - len("<s><user>") + 2
    assert second.metrics.num_cached_tokens == cached_after(first, second)
    assert second.outputs == llm.chat(edited, params()).outputs


def test_a_conversation_that_starts_anew_keeps_only_its_opening(new_llm):
    llm = new_llm()
    session = llm.chat_session()
    llm.chat([user("Hi")], params(), session=session)
    again = llm.chat([{"role": "end", "content": "x"}], params(), session=session)
    assert again.metrics.num_cached_tokens == 1, "the BOS token"
    assert again.outputs == llm.chat([{"role": "end", "content": "x"}], params()).outputs


def test_the_same_turn_again_computes_its_last_token_again(new_llm):
    llm = new_llm()
    session = llm.chat_session()
    first = llm.chat([user("Hi")], params(), session=session)
    again = llm.chat([user("Hi")], params(), session=session)
    assert again.metrics.num_cached_tokens == len(again.prompt_token_ids) - 1
    assert again.outputs == first.outputs


def test_several_samples_share_the_sessions_cache_and_the_first_leaves_its_own(
    new_llm, blocks_in_use
):
    llm = new_llm(block_size=4)
    session = llm.chat_session()
    many = params(n=3, seed=5, temperature=1.0)
    first = llm.chat([user("Hi")], many, session=session)
    assert first.outputs == llm.chat([user("Hi")], many).outputs
    conversation = [user("Hi"), assistant(first.outputs[0].text), user("Bye")]
    second = llm.chat(conversation, many, session=session)
    assert second.metrics.num_cached_tokens == cached_after(first, second)
    assert second.outputs == llm.chat(conversation, many).outputs
    session.close()
    assert blocks_in_use(llm) == 0


def test_two_sessions_do_not_mix(new_llm):
    llm = new_llm()
    sessions = [llm.chat_session(), llm.chat_session()]
    firsts = [[user("Tom lost the ball")], [user("Anna found a hat")]]
    answers = [llm.chat(m, params(), session=s) for m, s in zip(firsts, sessions, strict=True)]
    for messages, answer, session in zip(firsts, answers, sessions, strict=True):
        conversation = [*messages, assistant(answer.outputs[0].text), user("Who?")]
        output = llm.chat(conversation, params(), session=session)
        assert output.outputs == llm.chat(conversation, params()).outputs
        assert output.metrics.num_cached_tokens == cached_after(answer, output)


def test_a_session_answers_one_turn_at_a_time(new_llm, blocks_in_use):
    llm = new_llm()
    session = llm.chat_session()
    stream = llm.stream_chat([user("Hi")], params(), session=session)
    next(stream)
    with pytest.raises(EngineError, match="still answering its last turn") as caught:
        llm.chat([user("Ho")], params(), session=session)
    assert "Finish or close that stream first" in caught.value.remedy
    chunks = list(stream)
    assert chunks[-1].output.outputs == llm.chat([user("Hi")], params()).outputs
    llm.chat([user("Ho")], params(), session=session)
    session.close()
    assert blocks_in_use(llm) == 0


def test_a_turn_that_was_never_started_does_not_occupy_its_session(new_llm):
    llm = new_llm()
    session = llm.chat_session()
    llm.stream_chat([user("Hi")], params(), session=session)
    assert llm.chat([user("Ho")], params(), session=session).finished


def test_a_turn_broken_off_leaves_a_session_that_can_go_on(new_llm, blocks_in_use):
    llm = new_llm(block_size=4)
    session = llm.chat_session()
    stream = llm.stream_chat([user("Tom lost the ball")], params(max_tokens=30), session=session)
    shown = "".join(next(stream).text for _ in range(10))
    stream.close()
    conversation = [user("Tom lost the ball"), assistant(shown), user("Who?")]
    output = llm.chat(conversation, params(), session=session)
    assert output.metrics.num_cached_tokens >= len("<s><user>Tom lost the ball") - 7
    assert output.outputs == llm.chat(conversation, params()).outputs
    session.close()
    assert blocks_in_use(llm) == 0


def test_a_closed_session_starts_from_nothing(new_llm, blocks_in_use):
    llm = new_llm()
    session = llm.chat_session()
    llm.chat([user("Hi")], params(), session=session)
    session.close()
    assert blocks_in_use(llm) == 0
    assert session.token_ids == []
    assert llm.chat([user("Hi")], params(), session=session).metrics.num_cached_tokens == 0
    session.close()
    session.close()


def test_a_prompt_that_is_refused_leaves_the_session_as_it_was(new_llm):
    llm = new_llm()
    session = llm.chat_session()
    first = llm.chat([user("Hi")], params(), session=session)
    with pytest.raises(ValueError, match="Shorten the prompt"):
        llm.chat([user("x" * 100)], params(), session=session)
    again = llm.chat([user("Hi")], params(), session=session)
    assert again.metrics.num_cached_tokens == cached_after(first, again)


# -- Short of memory --------------------------------------------------------------------------


@pytest.fixture
def idle(new_llm) -> Callable[..., tuple[LLM, list[ChatSession], list[RequestOutput]]]:
    """An engine of six blocks of 16 tokens, and idle sessions that hold two each."""

    def make(count: int) -> tuple[LLM, list[ChatSession], list[RequestOutput]]:
        llm = new_llm(num_blocks=6)
        sessions = [llm.chat_session() for _ in range(count)]
        outputs = [
            llm.chat([user(f"{i} lost the ball")], params(), session=s)
            for i, s in enumerate(sessions)
        ]
        return llm, sessions, outputs

    return make


def test_the_session_idle_longest_is_dropped_for_a_prompt_that_needs_the_room(idle, blocks_in_use):
    llm, sessions, _ = idle(3)
    assert blocks_in_use(llm) == 6
    assert [s.holds_blocks for s in sessions] == [True, True, True]
    llm.generate([1] * 20, params())
    assert [s.holds_blocks for s in sessions] == [False, True, True]
    llm.generate([1] * 60, params())
    assert [s.holds_blocks for s in sessions] == [False, False, False]
    assert blocks_in_use(llm) == 0


def test_a_session_that_was_used_again_is_not_the_one_idle_longest(idle):
    llm, sessions, _ = idle(3)
    llm.chat([user("0 lost the ball")], params(), session=sessions[0])
    llm.generate([1] * 20, params())
    assert [s.holds_blocks for s in sessions] == [True, False, True]


def test_a_dropped_session_computes_again_and_answers_the_same(idle, new_llm):
    llm, sessions, outputs = idle(2)
    llm.generate([1] * 90, params())
    conversation = [
        user("0 lost the ball"),
        assistant(outputs[0].outputs[0].text),
        user("Who?"),
    ]
    output = llm.chat(conversation, params(), session=sessions[0])
    assert output.metrics.num_cached_tokens == 0
    assert output.outputs == new_llm().chat(conversation, params()).outputs


def test_logits_may_take_the_room_of_idle_sessions(idle, tiny_llm, blocks_in_use):
    llm, sessions, _ = idle(3)
    assert (llm.logits([1] * 96) == tiny_llm.logits([1] * 96)).all()
    assert not any(s.holds_blocks for s in sessions)
    assert blocks_in_use(llm) == 0


def test_what_a_waiting_turn_brought_along_is_given_up_rather_than_wait_for_ever(
    idle, new_llm, blocks_in_use
):
    """Two turns wait with two cached blocks each; the first needs five of the six blocks."""
    llm, sessions, _ = idle(2)
    long = params(max_tokens=60)
    conversations = [[user(f"{i} lost the ball"), user("Who?")] for i in range(2)]
    # Both are queued before either is computed: the engine's own queue, entered by hand.
    engine = llm._engine
    requests = [llm._chat_request(messages, long) for messages in conversations]
    for request, session in zip(requests, sessions, strict=True):
        engine.add(request, session)
    while not all(request.finished for request in requests):
        engine.step()
    outputs = [request.result() for request in requests]
    assert outputs[0].metrics.num_cached_tokens > 0
    assert outputs[1].metrics.num_cached_tokens == 0
    for messages, output in zip(conversations, outputs, strict=True):
        assert output.outputs == new_llm().chat(messages, long).outputs
    for session in sessions:
        session.close()
    assert blocks_in_use(llm) == 0
