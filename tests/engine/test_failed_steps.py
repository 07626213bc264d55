"""What goes wrong ends what it must, with its cause, and nothing else.

Ctrl-C ends the requests of whoever was stepping; a fault of one request that request; a step that
fails all of them. After each the engine goes on as if nothing had been.
"""

import signal
import weakref

import numpy as np
import pytest

import llm_numba.engine.runner
from llm_numba import SamplingParams
from llm_numba.engine.step import NOT_FINITE
from llm_numba.errors import EngineError
from llm_numba.models import IncrementalDetokenizer

from .fake import Pending, expected_answer, new_engine


def greedy(**fields) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, **fields})


@pytest.mark.parametrize("place", ["forward", "scores", "choice", "append"])
@pytest.mark.parametrize("call", [0, 1, 4], ids=["prompt", "first step", "later"])
@pytest.mark.parametrize(
    "fields", [{}, {"n": 2, "temperature": 1.0, "seed": 5}], ids=["one", "two samples"]
)
def test_ctrl_c_leaves_the_other_requests_of_that_step_their_answers(
    new_llm, blocks_in_use, monkeypatch: pytest.MonkeyPatch, place, call, fields
):
    """Both requests are queued before the first step, so that they share all of them."""
    llm = new_llm()
    expected = llm.generate("Anna has a hat", greedy(**fields))[0].outputs
    engine = llm.engine
    (kept,) = llm._requests("Anna has a hat", greedy(**fields))
    (broken,) = llm._requests("Tom", greedy())

    sampler = (llm_numba.engine.runner, "sample_tokens")
    owner, name = {
        "forward": (engine.runner.model, "forward"),
        "scores": (engine.runner.model, "scores"),
        "choice": sampler if fields else (engine.runner.model, "argmax"),
        "append": (llm_numba.engine.request.Sequence, "append"),
    }[place]
    works, calls = getattr(owner, name), iter(range(10**6))

    def failing(*args):
        # Half of the sequences of a step have their token when the failing one is appended.
        if next(calls) == (2 * call + 1 if place == "append" else call):
            raise KeyboardInterrupt
        return works(*args)

    monkeypatch.setattr(owner, name, failing)
    engine.add(kept)
    with pytest.raises(KeyboardInterrupt):
        list(engine.run([broken]))
    while not kept.finished:
        engine.step()
    assert kept.result().outputs == expected
    assert blocks_in_use(llm) == 0


def test_the_first_tokens_of_all_samples_are_no_part_of_the_decode_rate(new_llm):
    metrics = new_llm().generate("abc", greedy(n=3, temperature=1.0, max_tokens=5))[0].metrics
    assert metrics.decode_tokens_per_second == pytest.approx((15 - 3) / metrics.decode_time)


# -- A fault of one request -------------------------------------------------------------------


@pytest.fixture
def no_logits_for(tiny_llm, monkeypatch: pytest.MonkeyPatch):
    """Let the logits of one prompt's third token be no numbers."""

    def arrange(prompt: str) -> None:
        submit = tiny_llm.engine.runner.submit

        def failing(step):
            sampled = submit(step).wait()
            for each in sampled:
                output = each.sequence.output
                if each.sequence.request.prompt == prompt and len(output.token_ids) == 2:
                    each.token_id = NOT_FINITE
            return Pending(sampled)

        monkeypatch.setattr(tiny_llm.engine.runner, "submit", failing)

    return arrange


def test_logits_that_are_no_numbers_end_their_request_alone(tiny_llm, no_logits_for, blocks_in_use):
    prompts = ["Tom", "Anna has a hat", "x"]
    expected = [output.outputs for output in tiny_llm.generate(prompts, greedy())]
    no_logits_for("Anna has a hat")
    outputs = tiny_llm.generate(prompts, greedy())
    assert [output.error is None for output in outputs] == [True, False, True]
    assert [outputs[0].outputs, outputs[2].outputs] == [expected[0], expected[2]]
    broken = outputs[1]
    assert "not finite" in broken.error.cause
    assert broken.finished
    assert broken.outputs[0].finish_reason == "error"
    assert broken.outputs[0].token_ids == expected[1][0].token_ids[:2], "what came before stays"
    assert blocks_in_use(tiny_llm) == 0


def test_the_last_chunk_of_a_request_with_a_fault_carries_its_error(tiny_llm, no_logits_for):
    no_logits_for("Tom")
    chunks = []
    with pytest.raises(EngineError, match="not finite"):
        chunks += tiny_llm.stream("Tom", greedy())
    stream = tiny_llm.stream(["Tom", "Anna"], greedy())
    chunks = [chunk for chunk in stream if chunk.output is not None]
    assert [chunk.finish_reason for chunk in chunks] == ["error", "length"]
    assert "not finite" in chunks[0].output.error.cause
    assert chunks[1].output.error is None


def test_all_samples_of_a_request_end_with_its_fault(tiny_llm, no_logits_for, blocks_in_use):
    no_logits_for("Tom")
    params = greedy(n=3, temperature=1.0, seed=4)
    output, other = tiny_llm.generate(["Tom", "Anna"], params)
    assert [sample.finish_reason for sample in output.outputs] == ["error"] * 3
    assert [sample.finish_reason for sample in other.outputs] == ["length"] * 3
    assert blocks_in_use(tiny_llm) == 0


def test_a_token_that_becomes_no_text_ends_its_request_alone(
    tiny_llm, monkeypatch: pytest.MonkeyPatch, blocks_in_use
):
    expected = tiny_llm.generate("Anna", greedy())[0].outputs
    append = llm_numba.engine.request.Sequence.append

    def failing(sequence, *args):
        if sequence.request.prompt == "Tom" and len(sequence.output.token_ids) == 3:
            raise UnicodeError("half a character")
        append(sequence, *args)

    monkeypatch.setattr(llm_numba.engine.request.Sequence, "append", failing)
    broken, whole = tiny_llm.generate(["Tom", "Anna"], greedy())
    assert whole.outputs == expected
    assert "UnicodeError: half a character" in broken.error.cause
    assert isinstance(broken.error.__cause__, UnicodeError)
    assert blocks_in_use(tiny_llm) == 0


@pytest.mark.parametrize("ends_by", ["max_tokens", "stop_token_ids"])
def test_text_that_fails_with_the_last_token_ends_its_request_too(
    tiny_llm, monkeypatch: pytest.MonkeyPatch, blocks_in_use, ends_by
):
    """Then the request is at its end, and at fault."""
    (tom,), (anna,) = (output.outputs for output in tiny_llm.generate(["Tom", "Anna"], greedy()))
    end = {"max_tokens": 3, "stop_token_ids": [tom.token_ids[2]]}[ends_by]
    flush, calls = IncrementalDetokenizer.flush, iter(range(100))

    def failing(detokenizer) -> str:
        if next(calls) == 0:
            raise UnicodeError("half a character")
        return flush(detokenizer)

    monkeypatch.setattr(IncrementalDetokenizer, "flush", failing)
    broken, whole = tiny_llm.generate(["Tom", "Anna"], [greedy(**{ends_by: end}), greedy()])
    assert "half a character" in broken.error.cause
    assert broken.outputs[0].finish_reason == "error"
    assert whole.outputs == [anna]
    assert blocks_in_use(tiny_llm) == 0


# -- A step that fails ------------------------------------------------------------------------


@pytest.mark.parametrize("call", [0, 1, 4], ids=["prompt", "first step", "later"])
def test_a_step_that_fails_ends_all_requests_with_its_cause_and_the_engine_starts_again(
    new_llm, blocks_in_use, monkeypatch: pytest.MonkeyPatch, call
):
    """One stream takes the step, another shares it, and a third waits for a place."""
    llm = new_llm(max_num_seqs=2)
    prompts = ["Tom lost the ball in the wood", "Anna", "Zoe"]
    expected = [llm.generate(prompt, greedy())[0].outputs for prompt in prompts]
    model = llm.engine.runner.model
    works, calls = model.forward, iter(range(10**6))

    def failing(*args):
        if next(calls) == call:
            raise MemoryError("the device is full")
        return works(*args)

    monkeypatch.setattr(model, "forward", failing)
    requests = [llm._requests(prompt, greedy())[0] for prompt in prompts]
    for request in requests[1:]:
        llm.engine.add(request)
    with pytest.raises(EngineError, match="MemoryError: the device is full") as caught:
        list(llm.engine.run(requests[:1]))
    assert isinstance(caught.value.__cause__, MemoryError)
    for request in requests:
        assert request.finished
        assert request.error is caught.value
        assert request.chunks[-1].output.error is caught.value
    assert blocks_in_use(llm) == 0
    assert llm.engine.runner.kv_cache.allocator.num_kept == 0, "half-written blocks are forgotten"
    assert [llm.generate(prompt, greedy())[0].outputs for prompt in prompts] == expected


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_a_failed_step_is_put_in_order_waits_until_it_is(
    tiny_llm, blocks_in_use, monkeypatch: pytest.MonkeyPatch
):
    allocator = tiny_llm.engine.runner.kv_cache.allocator
    clear = allocator.clear

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        clear()

    with monkeypatch.context() as patch:
        patch.setattr(tiny_llm.engine.runner.model, "forward", lambda *_: 1 // 0)
        patch.setattr(allocator, "clear", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny_llm.generate("Tom", greedy())
    assert blocks_in_use(tiny_llm) == 0
    assert tiny_llm.generate("Tom", greedy())[0].error is None


def test_other_streams_get_the_error_of_the_step_too(tiny_llm, monkeypatch: pytest.MonkeyPatch):
    streams = [tiny_llm.stream(prompt, greedy()) for prompt in (["Tom", "x"], ["Anna"])]
    for stream in streams:
        next(stream)

    def failing(*args):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_llm.engine.runner.model, "forward", failing)
        with pytest.raises(EngineError, match="broken"):
            list(streams[1])
    with pytest.raises(EngineError, match="broken"):
        list(streams[0])
    assert tiny_llm.generate("Tom", greedy())[0].error is None


def test_a_stream_of_several_fails_with_the_step_though_one_had_its_answer(
    tiny_llm, monkeypatch: pytest.MonkeyPatch
):
    """And though it was another stream that took the step."""
    several = tiny_llm.stream(["Tom", "Anna"], [greedy(max_tokens=1), greedy()])
    other = tiny_llm.stream("Zoe", greedy())
    read = [next(several), next(other)]
    assert read[0].finish_reason == "length"
    with monkeypatch.context() as patch:
        patch.setattr(tiny_llm.engine.runner.model, "forward", lambda *_: 1 // 0)
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            list(other)
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        list(several)


def test_the_arrays_of_a_step_that_failed_are_not_kept_with_its_error(
    tiny_llm, monkeypatch: pytest.MonkeyPatch
):
    """Where memory ran out, they are what it ran out for."""
    held = []

    def failing(*args):
        activations = np.zeros(1000)
        held.append(weakref.ref(activations))
        raise MemoryError("the device is full")

    monkeypatch.setattr(tiny_llm.engine.runner.model, "forward", failing)
    with pytest.raises(EngineError) as caught:
        tiny_llm.generate("Tom", greedy())
    assert caught.value.__cause__.__traceback__ is not None
    assert held[0]() is None


def test_a_step_in_flight_is_forgotten_with_the_one_behind_it_that_failed():
    """On a GPU that failed, waiting for it would fail again."""

    class Lost:
        def wait(self):
            raise RuntimeError("the GPU has failed")

    engine = new_engine(20, depth=1)
    submit, steps = engine.runner.submit, iter([lambda _: Lost(), lambda _: 1 // 0])
    engine.runner.submit = lambda step: next(steps, submit)(step)
    broken, whole = (engine.new_request(None, [1, 2, 3], greedy(seed=1)) for _ in range(2))
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        list(engine.run([broken]))
    list(engine.run([whole]))
    answer = expected_answer([1, 2, 3], 1, 0, whole.max_tokens, eos=None)
    assert whole.sequences[0].output.token_ids == answer
