"""Text to ids and back: BOS once, the whole text, and the errors of a broken tokenizer."""

import json
import os
from pathlib import Path

import pytest
import tokenizers

from llm_numba import LLM, SamplingParams
from llm_numba.errors import TokenizerError
from llm_numba.models import Tokenizer

BOS = 256


def test_bos_is_added_once_to_plain_text(tiny_dir: Path):
    tokenizer = Tokenizer(tiny_dir)
    ids = tokenizer.encode("ab")
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    assert tokenizer.decode(ids) == "ab"


def test_bos_that_the_user_typed_is_not_doubled(tiny_dir: Path):
    tokenizer = Tokenizer(tiny_dir)
    assert tokenizer.encode("<s>ab") == tokenizer.encode("ab")


def test_bos_typed_further_on_stays_where_it_is(tiny_dir: Path):
    ids = Tokenizer(tiny_dir).encode("a<s>b")
    assert [i for i, token in enumerate(ids) if token == BOS] == [0, 2]


def test_no_special_token_is_added_where_none_is_asked_for(tiny_dir: Path):
    tokenizer = Tokenizer(tiny_dir)
    assert tokenizer.encode("ab", add_special_tokens=False) == tokenizer.encode("ab")[1:]
    assert tokenizer.encode("<s>ab", add_special_tokens=False) == tokenizer.encode("ab")


def test_bos_is_there_once_in_a_chat_whose_template_writes_it(tiny_llm: LLM):
    output = tiny_llm.chat([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=1))
    assert output.prompt == "<s><user>hi<end><assistant>"
    assert output.prompt_token_ids[0] == BOS
    assert output.prompt_token_ids.count(BOS) == 1


def test_a_chat_whose_template_writes_no_bos_gets_none(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")
    output = LLM(directory).chat([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=1))
    assert BOS not in output.prompt_token_ids


@pytest.mark.parametrize(
    "declared",
    ["<s>", {"content": "<s>", "lstrip": False, "rstrip": False, "special": True}],
    ids=["as text", "as an object"],
)
def test_bos_may_be_declared_in_either_form(tiny_checkpoint, declared):
    directory = tiny_checkpoint()
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": declared}))
    tokenizer = Tokenizer(directory)
    assert tokenizer.bos_token == "<s>"
    assert tokenizer.encode("<s>ab").count(BOS) == 1


def test_special_tokens_may_be_declared_in_their_own_file(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "tokenizer_config.json").unlink()
    (directory / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    )
    tokenizer = Tokenizer(directory)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize("declared", [5, ["<s>"], None, {"content": 5}, {}])
def test_a_special_token_that_is_no_text_counts_as_not_declared(tiny_checkpoint, declared):
    directory = tiny_checkpoint()
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": declared}))
    tokenizer = Tokenizer(directory)
    assert tokenizer.bos_token is None
    assert tokenizer.encode("ab").count(BOS) == 1


def test_a_tokenizer_file_that_asks_for_truncation_and_padding_gets_neither(tiny_checkpoint):
    directory = tiny_checkpoint()
    path = str(directory / "tokenizer.json")
    file = tokenizers.Tokenizer.from_file(path)
    file.enable_truncation(max_length=4)
    file.enable_padding(length=16, pad_id=258, pad_token="<user>")
    file.save(path)
    assert len(Tokenizer(directory).encode("abcdefgh")) == 1 + 8
    assert len(Tokenizer(directory).encode("a")) == 1 + 1


def test_special_tokens_are_skipped_in_text_unless_asked_for(tiny_dir: Path):
    tokenizer = Tokenizer(tiny_dir)
    ids = tokenizer.encode("ab</s>")
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>ab</s>"


def test_the_text_of_a_token_is_decoded_once_and_a_special_one_has_one_too(tiny_dir, monkeypatch):
    tokenizer = Tokenizer(tiny_dir)
    bos = tokenizer.token_id(tokenizer.bos_token)
    ids = [bos, *tokenizer.encode("a", add_special_tokens=False)]
    assert [tokenizer.text_of(each) for each in ids] == [tokenizer.bos_token, "a"]
    monkeypatch.setattr(tokenizer, "_tokenizer", None)
    assert [tokenizer.text_of(each) for each in ids] == [tokenizer.bos_token, "a"]


def test_length_and_ids_of_tokens_include_the_special_ones(tiny_dir: Path):
    tokenizer = Tokenizer(tiny_dir)
    assert len(tokenizer) == 256 + 5
    assert tokenizer.token_id("</s>") == 257
    assert tokenizer.token_id("no such token") is None


def test_a_missing_tokenizer_is_named_and_token_ids_are_the_way_out(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json") as caught:
        Tokenizer(directory)
    assert str(directory) in caught.value.cause
    llm = LLM(directory)
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        llm.generate("text")
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        llm.chat([{"role": "user", "content": "text"}])
    output = llm.generate([65, 66], SamplingParams(max_tokens=3, ignore_eos=True))[0].outputs[0]
    assert len(output.token_ids) == 3
    assert output.text == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"\xff\xfe\x00",
        b'{"model": {"type": "BPE"}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        b"[" * 100_000,
    ],
)
def test_a_malformed_tokenizer_is_named(tiny_checkpoint, content):
    path = tiny_checkpoint() / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError) as caught:
        LLM(path.parent)
    assert caught.value.cause.startswith(f"{path} is not a valid tokenizer: ")
    assert caught.value.remedy == "Download that file again."


def test_nobody_waits_for_a_tokenizer_out_of_a_pipe(tiny_checkpoint):
    path = tiny_checkpoint() / "tokenizer.json"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(TokenizerError, match="is no file but a pipe or a device"):
        LLM(path.parent)


def test_a_tokenizer_that_fails_only_on_a_text_is_named(tiny_checkpoint):
    """It puts a token before each text, and does not say which: the library panics."""
    path = tiny_checkpoint() / "tokenizer.json"
    contents = json.loads(path.read_text())
    contents["post_processor"]["special_tokens"] = {}
    path.write_text(json.dumps(contents))
    llm = LLM(path.parent)
    with pytest.raises(TokenizerError) as caught:
        llm.generate("text")
    assert caught.value.cause.startswith(f"{path} is damaged: ")
    assert llm.generate([65], SamplingParams(max_tokens=1))[0].outputs


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not valid JSON"),
        (b"[]", "holds no JSON object"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_malformed_settings_beside_the_tokenizer_are_named(tiny_checkpoint, name, content, said):
    path = tiny_checkpoint() / name
    path.write_bytes(content)
    with pytest.raises(TokenizerError) as caught:
        Tokenizer(path.parent)
    assert caught.value.cause.startswith(f"{path} {said}")
