"""A step that fails ends the stream that took it; the others that shared it go on, unharmed."""

import pytest

import llm_numba.engine.runner
from llm_numba import LLM, SamplingParams
from llm_numba.errors import EngineError


def greedy(**fields) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, **fields})


@pytest.mark.parametrize("place", ["forward", "logits", "sample_tokens", "append"])
@pytest.mark.parametrize("call", [0, 1, 4], ids=["prompt", "first step", "later"])
@pytest.mark.parametrize(
    "fields", [{}, {"n": 2, "temperature": 1.0, "seed": 5}], ids=["one", "two samples"]
)
def test_a_failed_step_leaves_the_other_requests_of_that_step_their_answers(
    new_llm, blocks_in_use, monkeypatch: pytest.MonkeyPatch, place, call, fields
):
    """Both requests are queued before the first step, so that they share all of them."""
    llm = new_llm()
    expected = llm.generate("Anna has a hat", greedy(**fields))[0].outputs
    engine = llm._engine
    (kept,) = llm._requests("Anna has a hat", greedy(**fields))
    (broken,) = llm._requests("Tom", greedy())

    owner = {
        "forward": engine._runner.model,
        "logits": engine._runner.model,
        "sample_tokens": llm_numba.engine.runner,
        "append": llm_numba.engine.request.Sequence,
    }[place]
    works, calls = getattr(owner, place), iter(range(10**6))

    def failing(*args):
        # Half of the sequences of a step have their token when the failing one is appended.
        if next(calls) == (2 * call + 1 if place == "append" else call):
            raise KeyboardInterrupt
        return works(*args)

    monkeypatch.setattr(owner, place, failing)
    engine.add(kept)
    with pytest.raises(KeyboardInterrupt):
        list(engine.run([broken]))
    while not kept.finished:
        engine.step()
    assert kept.result().outputs == expected
    assert blocks_in_use(llm) == 0


def test_a_session_of_another_model_is_refused(new_llm, tiny_checkpoint, blocks_in_use):
    """Its blocks are numbers of another cache: read here, they would be anybody's."""
    ours, other = new_llm(), LLM(tiny_checkpoint("other", seed=3))
    session = ours.chat_session()
    messages = [{"role": "user", "content": "Hi there"}]
    ours.chat(messages, greedy(), session=session)
    with pytest.raises(EngineError, match="another"):
        other.chat(messages, greedy(), session=session)
    again = ours.chat(messages, greedy(), session=session)
    assert again.metrics.num_cached_tokens > 0
    session.close()
    assert blocks_in_use(ours) == 0
    assert blocks_in_use(other) == 0


def test_a_session_closed_during_its_turn_keeps_nothing(new_llm, blocks_in_use):
    llm = new_llm()
    session = llm.chat_session()
    stream = llm.stream_chat([{"role": "user", "content": "Hi"}], greedy(), session=session)
    next(stream)
    session.close()
    list(stream)
    assert not session.holds_blocks
    assert blocks_in_use(llm) == 0


def test_the_first_tokens_of_all_samples_are_no_part_of_the_decode_rate(new_llm):
    metrics = new_llm().generate("abc", greedy(n=3, temperature=1.0, max_tokens=5))[0].metrics
    assert metrics.decode_tokens_per_second == pytest.approx((15 - 3) / metrics.decode_time)
