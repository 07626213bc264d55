"""Where answers end: stop strings, stop tokens, end tokens, lengths; and what streams show."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_numba import LLM, SamplingParams
from llm_numba.engine.outputs import CompletionOutput
from llm_numba.engine.stopping import StopStrings

# -- The watcher alone ------------------------------------------------------------------------


def shown_and_found(strings: list[str], pushed: list[str]) -> Iterator[tuple[str, str | None]]:
    """Push pieces of text, the last one as the last, until a stop string is found."""
    stop = StopStrings(strings)
    for number, text in enumerate(pushed, start=1):
        shown, found = stop.push(text, last=number == len(pushed))
        yield shown, found
        if found is not None:
            return


@pytest.mark.parametrize(
    ("strings", "pushed", "shown", "found"),
    [
        (["end"], ["the end of it"], ["the "], "end"),
        (["end"], ["the e", "n", "d of it"], ["the ", "", ""], "end"),
        (["end"], ["the e", "n", "ough"], ["the ", "", "enough"], None),
        (["end"], ["the e", "n"], ["the ", "en"], None),
        (["aab"], ["aa", "a", "b"], ["", "a", ""], "aab"),
        (["abab"], ["ab", "a", "c"], ["", "", "abac"], None),
        (["b", "ab"], ["xab"], ["x"], "ab"),
        (["ab", "abc"], ["xabc"], ["x"], "ab"),
        (["abc", "b"], ["xab"], ["xa"], "b"),
        (["\n\n"], ["one\n", "two\n", "\nthree"], ["one", "\ntwo", ""], "\n\n"),
        ([], ["any", "thing"], ["any", "thing"], None),
    ],
)
def test_a_stop_string_is_found_across_borders_and_held_back_until_it_is_clear(
    strings, pushed, shown, found
):
    results = list(shown_and_found(strings, pushed))
    assert [text for text, _ in results] == shown
    assert results[-1][1] == found


@settings(max_examples=300)
@given(
    strings=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    pushed=st.lists(st.text("abc", max_size=3), min_size=1, max_size=12),
)
def test_what_is_shown_is_the_text_before_the_first_stop_string(strings, pushed):
    """Against the whole text, cut where the piece that completes a stop string ends."""
    results = list(shown_and_found(strings, pushed))
    whole = "".join(pushed[: len(results)])
    shown, found = "".join(text for text, _ in results), results[-1][1]
    if found is None:
        assert shown == whole
        assert not any(s in whole for s in strings)
    else:
        assert not any(s in "".join(pushed[: len(results) - 1]) for s in strings)
        first = min(whole.find(s) for s in strings if s in whole)
        assert shown == whole[:first]
        assert whole.startswith(found, first)


@settings(max_examples=300)
@given(
    string=st.text("ab", min_size=1, max_size=4),
    pushed=st.lists(st.text("abc", max_size=3), min_size=1, max_size=12),
)
def test_no_more_is_held_back_than_may_begin_a_stop_string(string, pushed):
    stop, whole, shown = StopStrings([string]), "", ""
    for text in pushed:
        whole += text
        new, found = stop.push(text, last=False)
        shown += new
        if found is not None:
            return
        held = whole[len(shown) :]
        assert whole == shown + held
        assert string.startswith(held)


# -- The engine, with a model that writes a given text ----------------------------------------

EOS, OTHER_EOS = 257, 260


@pytest.fixture
def write(tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CompletionOutput]:
    """Let the model write given token ids, stream them, and hold the chunks against the answer."""

    def write(text_or_ids: str | list[int], **fields) -> CompletionOutput:
        script = text_or_ids
        if isinstance(script, str):
            script = tiny_llm.tokenizer.encode(script, add_special_tokens=False)
        monkeypatch.setattr(
            "llm_numba.engine.runner.sample_tokens",
            lambda logits, asked, *_: np.array([script[draw] for draw in asked.draws]),
        )
        params = SamplingParams(**{"max_tokens": len(script), **fields})
        chunks = list(tiny_llm.stream("prompt", params))
        answer = chunks[-1].output.outputs[0]
        assert "".join(chunk.text for chunk in chunks) == answer.text
        assert [i for chunk in chunks for i in chunk.token_ids] == answer.token_ids
        assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish_reason == answer.finish_reason
        assert [chunk.output for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        return answer

    return write


def test_a_stop_string_over_several_tokens_ends_the_answer_before_it(write):
    answer = write("one two three", stop=["o t", "two"])
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("one ", "stop", "two")
    assert len(answer.token_ids) == len("one two"), "the tokens of the stop string are there"


def test_the_tokens_stop_with_the_last_letter_of_the_stop_string(write):
    answer = write("one two", stop="wo")
    assert (answer.text, len(answer.token_ids)) == ("one t", len("one two"))


def test_text_that_began_like_a_stop_string_is_shown_in_the_end(write):
    answer = write("one tw", stop="two")
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("one tw", "length", None)


def test_a_stop_string_in_the_last_token_allowed_still_counts(write):
    answer = write("one two", stop="two", max_tokens=7)
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("one ", "stop", "two")


def test_a_stop_string_may_hold_a_character_of_several_tokens(write):
    answer = write("one 😀 two", stop="😀")
    assert (answer.text, answer.stop_reason) == ("one ", "😀")
    assert len(answer.token_ids) == len("one 😀".encode())


@pytest.mark.parametrize("token", [EOS, OTHER_EOS])
def test_any_end_token_ends_an_answer_and_is_no_part_of_its_text(write, tiny_llm, token):
    a, b = tiny_llm.tokenizer.encode("ab")[1:]
    answer = write([a, token, b])
    assert (answer.text, answer.token_ids) == ("a", [a, token])
    assert (answer.finish_reason, answer.stop_reason) == ("stop", None)


def test_ignore_eos_goes_on_behind_an_end_token(write, tiny_llm):
    a, b = tiny_llm.tokenizer.encode("ab")[1:]
    answer = write([a, EOS, b], ignore_eos=True)
    assert (answer.text, answer.token_ids) == ("ab", [a, EOS, b])
    assert answer.finish_reason == "length"


def test_a_stop_token_ends_an_answer_and_is_its_reason(write, tiny_llm):
    a, b, c = tiny_llm.tokenizer.encode("abc")[1:]
    answer = write([a, b, c], stop_token_ids=[7, b])
    assert (answer.text, answer.token_ids) == ("a", [a, b])
    assert (answer.finish_reason, answer.stop_reason) == ("stop", b)


def test_ignore_eos_leaves_stop_tokens_in_force(write, tiny_llm):
    a, b = tiny_llm.tokenizer.encode("ab")[1:]
    answer = write([a, EOS, b], ignore_eos=True, stop_token_ids=[EOS])
    assert (answer.token_ids, answer.stop_reason) == ([a, EOS], EOS)


def test_half_a_character_before_an_end_token_is_shown_as_broken(write, tiny_llm):
    half = tiny_llm.tokenizer.encode("é")[1]
    answer = write([half, EOS])
    assert (answer.text, answer.finish_reason) == ("\ufffd", "stop")


def test_half_a_character_at_the_length_limit_is_shown_as_broken(write, tiny_llm):
    ids = tiny_llm.tokenizer.encode("aé")[1:]
    answer = write(ids, max_tokens=2)
    assert (answer.text, answer.finish_reason) == ("a\ufffd", "length")


def test_held_back_text_is_shown_when_an_end_token_comes(write, tiny_llm):
    ids = tiny_llm.tokenizer.encode("one tw")[1:]
    answer = write([*ids, EOS], stop="two")
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("one tw", "stop", None)


def test_max_tokens_ends_an_answer(tiny_llm):
    params = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
    answer = tiny_llm.generate("abc", params)[0].outputs[0]
    assert (len(answer.token_ids), answer.finish_reason) == (5, "length")
    assert answer.stop_reason is None


@pytest.mark.parametrize("max_tokens", [None, 10**9])
def test_without_a_limit_an_answer_goes_on_until_the_context_is_full(tiny_llm, max_tokens):
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    output = tiny_llm.generate([1] * 60, params)[0]
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 96
    assert output.outputs[0].finish_reason == "length"


def test_the_samples_of_a_request_end_each_at_its_own_place(tiny_llm):
    params = SamplingParams(
        n=4, seed=0, max_tokens=30, ignore_eos=True, stop_token_ids=list(range(100))
    )
    output = tiny_llm.generate("abc", params)[0]
    lengths = {len(answer.token_ids) for answer in output.outputs}
    assert len(lengths) > 1, "these samples were chosen to differ"
    for answer in output.outputs:
        *before, last = answer.token_ids
        assert answer.stop_reason == last
        assert last < 100
        assert all(token >= 100 for token in before)
    assert output.finished
