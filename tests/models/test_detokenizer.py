"""Tokens to text as they come: the pieces join to the whole, and no character is shown in half."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, normalizers

from llm_numba.models import IncrementalDetokenizer, Tokenizer

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
# Characters of two to four bytes, and those that only show together with others.
AWKWARD = st.lists(
    st.sampled_from(["é", "e\u0301", "日", "😀", "👩‍👩‍👧", "🇫🇷", "\u200d", "a", " ", "\n"]),
    max_size=12,
).map("".join)
steady = settings(derandomize=True, deadline=None, max_examples=100)


@pytest.fixture(scope="module")
def byte_level(tiny_dir: Path) -> Tokenizer:
    """A token for each byte, as GPT-2, Llama 3 and Qwen decode them."""
    return Tokenizer(tiny_dir)


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Words that carry the space before them, and bytes for the rest, as in Llama 2."""
    words = ["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words += [*"abcdefghijklmnopqrstuvwxyz", "▁hello", "▁world", "lo"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(word, -1.0) for word in words], unk_id=0, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>"])
    directory = tmp_path_factory.mktemp("sentencepiece")
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    return Tokenizer(directory)


def pieces(tokenizer: Tokenizer, prompt_ids: list[int], token_ids: list[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids)
    return [detokenizer.push(token_id) for token_id in token_ids] + [detokenizer.flush()]


@steady
@given(prompt=AWKWARD, text=st.one_of(TEXT, AWKWARD))
def test_pieces_of_byte_tokens_join_to_the_text(byte_level, prompt, text):
    prompt_ids = byte_level.encode(prompt)
    token_ids = byte_level.encode(text, add_special_tokens=False)
    assert "".join(pieces(byte_level, prompt_ids, token_ids)) == text


@steady
@given(text=AWKWARD)
def test_a_character_comes_whole_with_its_last_byte(byte_level, text):
    token_ids = byte_level.encode(text, add_special_tokens=False)
    shown = ""
    detokenizer = IncrementalDetokenizer(byte_level, [])
    for count, token_id in enumerate(token_ids, start=1):
        shown += detokenizer.push(token_id)
        whole = text.encode()[:count].decode(errors="ignore")
        assert shown == whole


@steady
@given(token_ids=st.lists(st.integers(0, 260), max_size=40), prompt=AWKWARD)
def test_pieces_of_any_tokens_join_to_what_decoding_at_once_gives(byte_level, token_ids, prompt):
    """Random tokens: broken characters, special tokens, whatever a model may sample."""
    prompt_ids = byte_level.encode(prompt)
    assert "".join(pieces(byte_level, prompt_ids, token_ids)) == byte_level.decode(token_ids)


def test_half_a_character_is_held_back_and_flushed_at_the_end(byte_level):
    token_ids = byte_level.encode("a😀", add_special_tokens=False)
    assert pieces(byte_level, [], token_ids[:-1]) == ["a", "", "", "", "\ufffd"]


def test_half_a_character_followed_by_another_is_shown_as_broken(byte_level):
    half, a = byte_level.encode("é", add_special_tokens=False)[0], byte_level.encode("a")[-1]
    assert pieces(byte_level, [], [half, a]) == ["", "\ufffda", ""]


def test_a_flush_leaves_nothing_behind(byte_level):
    detokenizer = IncrementalDetokenizer(byte_level, [])
    half = byte_level.encode("é", add_special_tokens=False)[0]
    assert detokenizer.push(half) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


def test_special_tokens_give_no_text(byte_level):
    token_ids = byte_level.encode("a</s>b<end>", add_special_tokens=False)
    assert pieces(byte_level, [], token_ids) == ["a", "", "b", "", ""]


@steady
@given(
    prompt=st.sampled_from(["hello", "hello world", "a b c d e f g h", "x "]),
    text=st.lists(
        st.sampled_from(["hello", " world", " ", "  ", "a", "é", "😀", "日本"]), max_size=10
    ).map("".join),
)
def test_sentencepiece_tokens_keep_their_spaces_behind_a_prompt(sentencepiece, prompt, text):
    """The decoder strips the space of the first word; behind a prompt no word is the first."""
    prompt_ids = sentencepiece.encode(prompt)
    token_ids = sentencepiece.encode(text)[1:]  # without the space that begins every text
    whole = sentencepiece.decode(prompt_ids + token_ids)
    assert (
        sentencepiece.decode(prompt_ids) + "".join(pieces(sentencepiece, prompt_ids, token_ids))
        == whole
    )


def test_a_word_that_carries_its_space_shows_it_at_once(sentencepiece):
    prompt_ids = sentencepiece.encode("hello")
    token_ids = sentencepiece.encode("hello world hello")[1:]
    assert pieces(sentencepiece, prompt_ids, token_ids) == [" world", " hello", ""]


def test_byte_tokens_of_sentencepiece_are_held_back_until_the_character_is_whole(sentencepiece):
    prompt_ids = sentencepiece.encode("hello")
    token_ids = sentencepiece.encode("😀a")[1:]
    assert len(token_ids) == 5
    assert pieces(sentencepiece, prompt_ids, token_ids) == ["", "", "", "😀", "a", ""]


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_the_rest_of_a_character_that_the_prompt_began_takes_nothing_from_what_follows(
    sentencepiece, byte_level, missing
):
    """Token ids may be cut anywhere, and what stands for half a character be longer than one."""
    for tokenizer in (sentencepiece, byte_level):
        beginning = tokenizer.encode("hello 😀")
        answer = beginning[-missing:] + tokenizer.encode("abc")[1:]
        shown = pieces(tokenizer, beginning[:-missing], answer)
        assert shown[: missing - 1] == [""] * (missing - 1)
        assert "".join(shown) == "😀abc"
