"""Recall: how well the model answers questions about stories that it has never seen.

The measure of every engine, device, precision and split in this project: the same questions are
asked of two of them, and :func:`paired_difference` compares the answers story by story.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from llm_numba.train.dataset import recall_prompt
from llm_numba.train.stories import held_out_stories

if TYPE_CHECKING:
    from llm_numba.engine import LLM

MAX_ANSWER_TOKENS = 24
"""More than any right answer has, its line's end included (a test holds them to it)."""


@dataclass(frozen=True)
class RecallResult:
    """The outcome of :func:`evaluate_recall`, story by story.

    Attributes
    ----------
    seed : int
        The seed of the held-out stories.
    kinds : list of str
        The kind of the question asked about each story.
    correct : list of bool
        Whether it was answered exactly.
    wrong : list of dict
        For each wrong answer: the story's index, the question, the right and the given answer.
    """

    seed: int
    kinds: list[str]
    correct: list[bool]
    wrong: list[dict]

    @property
    def num_stories(self) -> int:
        """The number of stories, and of questions."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0 to 1."""
        return sum(self.correct) / len(self.correct)

    @property
    def accuracy_by_kind(self) -> dict[str, float]:
        """The share of right answers to each kind of question."""
        return {kind: right / asked for kind, (right, asked) in self.count_by_kind.items()}

    @property
    def count_by_kind(self) -> dict[str, tuple[int, int]]:
        """Right answers and questions of each kind, by name."""
        counts: dict[str, tuple[int, int]] = {}
        for kind, right in sorted(zip(self.kinds, self.correct, strict=True)):
            before = counts.get(kind, (0, 0))
            counts[kind] = (before[0] + right, before[1] + 1)
        return counts

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object; :meth:`from_json` reads it back.

        ``kinds`` is written as one string of words, ``correct`` as one of 0 and 1, both in the
        order of the stories.
        """
        return {
            "accuracy": self.accuracy,
            "accuracy_by_kind": self.accuracy_by_kind,
            "seed": self.seed,
            "kinds": " ".join(self.kinds),
            "correct": "".join(str(int(bit)) for bit in self.correct),
            "wrong": self.wrong,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> RecallResult:
        """Return the result that :meth:`to_json` wrote, whatever else stands beside it."""
        correct = [bit == "1" for bit in record["correct"]]
        return cls(record["seed"], record["kinds"].split(), correct, record["wrong"])


def evaluate_recall(
    llm: LLM,
    num_stories: int,
    seed: int = 0,
    batch_size: int = 32,
    run_on: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RecallResult:
    """Ask one question about each of ``num_stories`` held-out stories.

    A story has up to eight questions; which one is asked is drawn from the story's seed. The
    prompt is the story and the question in the plain form, the answer is decoded greedily and
    must equal the right one to the letter.

    Parameters
    ----------
    llm : LLM
        The model, in any precision and on any device.
    num_stories : int
        How many stories and questions.
    seed : int
        Another seed gives other held-out stories.
    batch_size : int
        Prompts a call of ``llm.generate``.
    run_on : bool
        Let the model write on behind its answer, to :data:`MAX_ANSWER_TOKENS`. The answer is what
        it was; but sequences grow, so that with few blocks some are pre-empted.
    progress : callable(done, total), optional
        Called after each batch with the number of stories done.

    Returns
    -------
    RecallResult
    """
    from llm_numba.engine import SamplingParams  # the generator alone must not need the engine

    stop = None if run_on else "\n"
    params = SamplingParams(temperature=0.0, max_tokens=MAX_ANSWER_TOKENS, stop=stop)
    stories = held_out_stories(num_stories, seed)
    questions = [Random(story.seed).choice(story.questions) for story in stories]
    correct: list[bool] = []
    wrong: list[dict] = []
    for start in range(0, num_stories, batch_size):
        pairs = list(zip(stories, questions, strict=True))[start : start + batch_size]
        outputs = llm.generate([recall_prompt(*pair) for pair in pairs], params)
        for (_, question), output in zip(pairs, outputs, strict=True):
            if output.error is not None:  # no answer is not a wrong answer
                raise output.error
            said = output.outputs[0].text.partition("\n")[0].strip()
            if said != question.answer:
                wrong.append(
                    {
                        "story": len(correct),
                        "question": question.text,
                        "answer": question.answer,
                        "said": said,
                    }
                )
            correct.append(said == question.answer)
        if progress is not None:
            progress(len(correct), num_stories)
    return RecallResult(seed, [question.kind for question in questions], correct, wrong)


@dataclass(frozen=True)
class PairedDifference:
    """How two evaluations of the same stories differ.

    Attributes
    ----------
    points : float
        Accuracy of the second less that of the first, in percentage points.
    only_first, only_second : int
        Stories that only the first, or only the second, answered rightly.
    p_value : float
        McNemar's exact two-sided test: how likely a split at least this uneven is if both
        are equally good.
    other_words : int
        Stories to which the two said different things, rightly or wrongly.
    """

    points: float
    only_first: int
    only_second: int
    p_value: float
    other_words: int


def paired_difference(first: RecallResult, second: RecallResult) -> PairedDifference:
    """Compare two results story by story.

    The test is McNemar's (Psychometrika 12, 1947) in its exact form: of the stories on which the
    two differ, the number won by one is binomial with probability 1/2 if they are equally good.

    Raises
    ------
    ValueError
        If the two did not answer the same questions.
    """
    if first.seed != second.seed or first.kinds != second.kinds:
        raise ValueError("the two results are of different stories; use the same seed and number")
    pairs = list(zip(first.correct, second.correct, strict=True))
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    p_value = min(1.0, 2 * tail / 2**discordant)
    points = 100 * (only_second - only_first) / len(pairs)
    # A right answer is the right one to the letter, so only wrong ones were written down.
    said = [{wrong["story"]: wrong["said"] for wrong in result.wrong} for result in (first, second)]
    other_words = sum(said[0].get(i) != said[1].get(i) for i in range(len(pairs)))
    return PairedDifference(points, only_first, only_second, p_value, other_words)
