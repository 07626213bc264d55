"""Documents, packing, the chat template and the tokenizer."""

import re
from itertools import islice, pairwise
from random import Random

import jinja2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llm_numba.models import resolve_model
from llm_numba.train import chat, dataset
from llm_numba.train.recall import MAX_ANSWER_TOKENS
from llm_numba.train.stories import make_story, training_stories

DIRECTORY = resolve_model("storyteller")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(DIRECTORY / "tokenizer.json"))


@pytest.fixture(scope="module")
def stories():
    return list(islice(training_stories(1), 600))


def joined(pieces):
    return "".join(text for text, _ in pieces)


def conversation(document):
    """Read a chat document back into messages."""
    assert document.startswith(chat.BEGIN)
    assert document.endswith(chat.EOT + chat.END)
    turns = document[len(chat.BEGIN) : -len(chat.EOT + chat.END)].split(chat.EOT)
    messages = []
    for turn in turns:
        role, content = turn.removeprefix("<|").split("|>", 1)
        messages.append({"role": role, "content": content})
    return messages


def template(messages, add_generation_prompt=False):
    def raise_exception(message):
        raise jinja2.TemplateError(message)

    text = (DIRECTORY / "chat_template.jinja").read_text()
    return jinja2.Template(text).render(
        messages=messages,
        add_generation_prompt=add_generation_prompt,
        bos_token=chat.BEGIN,
        raise_exception=raise_exception,
    )


def test_the_template_renders_what_training_saw(stories):
    seen = 0
    for story in stories[:200]:
        document = joined(dataset.document(story, Random(story.seed), 8))
        if chat.USER in document:
            assert template(conversation(document)) + chat.END == document
            seen += 1
    assert seen > 50


def test_the_template_opens_the_models_turn():
    messages = [{"role": "user", "content": "Tell me a story."}]
    opened = template(messages, add_generation_prompt=True)
    assert opened == "<|begin|><|user|>Tell me a story.<|eot|><|assistant|>"


def test_the_template_refuses_a_system_role():
    with pytest.raises(jinja2.TemplateError, match="'user' and 'assistant' only"):
        template([{"role": "system", "content": "Be brief."}])


def test_the_bundled_template_is_the_one_in_the_source():
    assert (DIRECTORY / "chat_template.jinja").read_text() == chat.CHAT_TEMPLATE


def test_a_conversation_alternates_and_ends_with_the_model(stories):
    for story in stories:
        for turns in (chat.told, chat.read):
            messages = turns(story, Random(story.seed), 8)
            roles = [message["role"] for message in messages]
            assert roles == ["user", "assistant"] * (len(messages) // 2)


def test_what_a_request_names_is_in_the_story(stories):
    for story in stories:
        asked = chat.request(story, Random(story.seed))
        names = [word.strip(".,?") for word in asked.split()[1:] if word[0].isupper()]
        for name in set(names) - {"I"}:
            assert name in story.text, (asked, story.text)


def test_the_four_forms_have_their_shares():
    story = make_story(0)
    documents = [joined(dataset.document(story, Random(seed), 8)) for seed in range(2000)]
    told = sum(chat.USER in d and story.text + chat.EOT in d for d in documents)
    plain = sum(chat.USER not in d and "Question:" in d for d in documents)
    alone = sum(d == chat.BEGIN + story.text + chat.END for d in documents)
    read = 2000 - told - plain - alone
    for count, share in ((alone, 0.15), (plain, 0.3), (told, 0.3), (read, 0.25)):
        assert abs(count - 2000 * share) < 80  # four standard deviations


def test_packing_keeps_every_document_whole():
    rng = np.random.default_rng(0)
    documents = [[1] + [2 + index] * int(rng.integers(0, 1023)) for index in range(200)]
    rows = dataset.pack(documents, pad=0)
    assert rows.dtype == np.uint16
    assert rows.shape[1] == dataset.ROW_LENGTH
    unpacked = []
    for row in rows.tolist():
        starts = [index for index, token in enumerate(row) if token == 1]
        assert starts[0] == 0
        for start, end in pairwise([*starts, len(row)]):
            unpacked.append([token for token in row[start:end] if token])
    assert sorted(unpacked) == sorted(documents)
    assert (rows == 0).mean() < 0.2


def test_a_slice_of_the_stream_is_the_same_every_time(tokenizer, monkeypatch):
    monkeypatch.setattr(dataset, "DOCUMENTS_PER_JOB", 40)
    text = tokenizer.to_str()
    first, again = (dataset.packed_job(text, seed=1, job=3) for _ in range(2))
    other = dataset.packed_job(text, seed=1, job=4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:4], other[:4])


def test_a_long_story_loses_questions_before_it_loses_words(tokenizer):
    stories = [make_story(seed, chapters=4) for seed in range(60)]
    longest = max(stories, key=lambda story: len(tokenizer.encode(story.text).ids))
    marked = dataset.encode_document(tokenizer, longest)
    ids = [token & (dataset.ANSWER_BIT - 1) for token in marked]
    assert 0 < len(ids) <= dataset.ROW_LENGTH
    assert longest.text in tokenizer.decode(ids, skip_special_tokens=False)


def test_answers_are_marked_and_nothing_else(tokenizer, stories):
    mask = dataset.ANSWER_BIT - 1
    for story in stories[:100]:
        pieces = dataset.document(story, Random(story.seed), 8)
        ids = dataset.encode_document(tokenizer, story)
        whole = tokenizer.encode(joined(pieces), add_special_tokens=False).ids
        assert [token & mask for token in ids] == whole
        marked = [token & mask for token in ids if token & dataset.ANSWER_BIT]
        said = "".join(text for text, is_answer in pieces if is_answer)
        assert tokenizer.decode(marked, skip_special_tokens=False) == said
        answers = {question.answer for question in story.questions}
        said_apart = re.split(r"\n|<\|eot\|>", said)[:-1]
        assert {answer.strip() for answer in said_apart} <= answers


def test_the_vocabulary_is_full_and_the_specials_come_first(tokenizer):
    assert tokenizer.get_vocab_size() == 1536
    assert [tokenizer.token_to_id(token) for token in chat.SPECIAL_TOKENS] == list(range(6))


@given(st.text())
def test_any_text_round_trips(text):
    tokenizer = Tokenizer.from_file(str(DIRECTORY / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_plain_text_begins_with_begin(tokenizer):
    ids = tokenizer.encode("Once upon a time").ids
    assert ids[0] == tokenizer.token_to_id(chat.BEGIN)
    assert tokenizer.encode("Once upon a time", add_special_tokens=False).ids == ids[1:]


def test_an_answer_is_cut_off_neither_by_length_nor_by_its_boundary(tokenizer, stories):
    for story in stories[:200]:
        for question in story.questions:
            prompt = dataset.recall_prompt(story, question)
            answer = f" {question.answer}\n"
            parts = [tokenizer.encode(part).ids for part in (prompt, answer)]
            assert len(parts[1]) - 1 <= MAX_ANSWER_TOKENS
            assert tokenizer.encode(prompt + answer).ids == parts[0] + parts[1][1:]
