"""Training documents and their packing into rows of equal length.

Four forms of document, all of stories from the training stream:

* *plain*: a story, then "Question: ... Answer: ..." lines;
* *story*: a story alone, so that an opening such as "Once upon a time" is carried on;
* *told*: a conversation in which the model tells the story that was asked for;
* *read*: a conversation in which the user brings the story.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random

import numpy as np
from tokenizers import Tokenizer

from llm_numba.train import chat
from llm_numba.train.questions import Question
from llm_numba.train.stories import Story, training_story

ROW_LENGTH = 1024
DOCUMENTS_PER_JOB = 1024
ANSWER_BIT = 1 << 15
"""Set in an id whose token belongs to an answer; ids need the lower bits only."""
_OPEN_ROWS = 16
_SHARES = {"story": 0.15, "plain": 0.45, "told": 0.75}  # cumulative; the rest is read
_QUESTIONS = (8, 6, 4, 2, 1)


def recall_prompt(story: Story, question: Question) -> str:
    """Return the plain-form prompt that ends where the answer begins."""
    return f"{story.text}\n\nQuestion: {question.text}\nAnswer:"


Piece = tuple[str, bool]
"""A part of a document, and whether it is an answer."""


def document(story: Story, rng: Random, questions: int) -> list[Piece]:
    """Return ``story`` as a training document in one of the four forms.

    Parameters
    ----------
    story : Story
        A story of the training stream.
    rng : random.Random
        Chooses the form and its wording.
    questions : int
        The largest number of questions to ask, at least 1.

    Returns
    -------
    list of Piece
        Joined, they are the document; apart, they give the same tokens.
    """
    drawn = rng.random()
    if drawn < _SHARES["story"]:
        return [(chat.BEGIN + story.text + chat.END, False)]
    if drawn < _SHARES["plain"]:
        pieces = [(f"{chat.BEGIN}{story.text}\n\n", False)]
        for question in story.questions[:questions]:
            pieces.append((f"Question: {question.text}\nAnswer:", False))
            pieces.append((f" {question.answer}\n", True))
        return [*pieces, (chat.END, False)]
    turns = chat.told if drawn < _SHARES["told"] else chat.read
    pieces = [(chat.BEGIN, False)]
    for message in turns(story, rng, questions):
        pieces.append((f"<|{message['role']}|>", False))
        pieces.append((message["content"] + chat.EOT, chat.is_answer(message, story)))
    return [*pieces, (chat.END, False)]


def encode_document(tokenizer: Tokenizer, story: Story) -> list[int]:
    """Return the token ids of ``story``'s document, with fewer questions if it is too long.

    The tokens of answers carry :data:`ANSWER_BIT`, so that the loss can tell them apart. The rare
    story that exceeds :data:`ROW_LENGTH` tokens even with one question gives no ids.
    """
    for questions in _QUESTIONS:
        ids: list[int] = []
        for text, is_answer in document(story, Random(story.seed), questions):
            piece = tokenizer.encode(text, add_special_tokens=False).ids
            ids += [token | ANSWER_BIT for token in piece] if is_answer else piece
        if len(ids) <= ROW_LENGTH:
            return ids
    return []


def pack(documents: Iterable[list[int]], pad: int) -> np.ndarray:
    """Pack whole documents into rows, first fit over a few open rows.

    Parameters
    ----------
    documents : iterable of list of int
        Token ids, at most :data:`ROW_LENGTH` a document.
    pad : int
        The id that fills the ends of the rows.

    Returns
    -------
    uint16 [rows, ROW_LENGTH]
    """
    done: list[list[int]] = []
    open_rows: list[list[int]] = []
    for ids in documents:
        row = next((r for r in open_rows if len(r) + len(ids) <= ROW_LENGTH), None)
        if row is None:
            if len(open_rows) == _OPEN_ROWS:
                fullest = max(open_rows, key=len)
                open_rows.remove(fullest)
                done.append(fullest)
            row = []
            open_rows.append(row)
        row.extend(ids)
    rows = np.full((len(done) + len(open_rows), ROW_LENGTH), pad, np.uint16)
    for index, row in enumerate(done + open_rows):
        rows[index, : len(row)] = row
    return rows


def packed_job(tokenizer_json: str, seed: int, job: int) -> np.ndarray:
    """Return the packed rows of one slice of the training stream: the unit of parallel work."""
    tokenizer = _tokenizer(tokenizer_json)
    first = job * DOCUMENTS_PER_JOB
    stories = (training_story(seed, first + index) for index in range(DOCUMENTS_PER_JOB))
    documents = (encode_document(tokenizer, story) for story in stories if story is not None)
    return pack(documents, tokenizer.token_to_id(chat.PAD))


_TOKENIZERS: dict[str, Tokenizer] = {}


def _tokenizer(tokenizer_json: str) -> Tokenizer:
    """Parse a tokenizer once per worker process."""
    if tokenizer_json not in _TOKENIZERS:
        _TOKENIZERS[tokenizer_json] = Tokenizer.from_str(tokenizer_json)
    return _TOKENIZERS[tokenizer_json]


def batches(
    tokenizer: Tokenizer, seed: int, rows_per_batch: int, workers: int
) -> Iterator[np.ndarray]:
    """Yield an endless stream of batches, the same for every number of workers.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        The model's tokenizer.
    seed : int
        The training stream's seed.
    rows_per_batch : int
        Rows in a batch.
    workers : int
        Processes that write stories ahead of the training.

    Yields
    ------
    uint16 [rows_per_batch, ROW_LENGTH]
    """
    tokenizer_json = tokenizer.to_str()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ahead = deque(
            pool.submit(packed_job, tokenizer_json, seed, job) for job in range(4 * workers)
        )
        next_job = len(ahead)
        try:
            rows = np.empty((0, ROW_LENGTH), np.uint16)
            while True:
                while len(rows) < rows_per_batch:
                    rows = np.concatenate([rows, ahead.popleft().result()])
                    ahead.append(pool.submit(packed_job, tokenizer_json, seed, next_job))
                    next_job += 1
                yield rows[:rows_per_batch]
                rows = rows[rows_per_batch:]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
