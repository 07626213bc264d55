"""Stories from seeds: plan, fingerprint, tell, ask.

A story's *fingerprint* is a hash of its facts, not of its words: the people, the things with
their colours, the places and the causes. Fingerprints that fall into class 0 of
:data:`HELD_OUT_CLASSES` are held out: :func:`training_stories` skips them and
:func:`held_out_stories` yields no others. So no held-out story was ever trained on, however it
might have been told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from random import Random

from llm_numba.train.planner import Planner
from llm_numba.train.plots import PLOTS
from llm_numba.train.questions import Question, ask
from llm_numba.train.telling import tell
from llm_numba.train.world import Event

HELD_OUT_CLASSES = 64
MAX_CHAPTERS = 4
_CHAPTER_SHARES = (0.82, 0.91, 0.96, 1.0)
_HELD_OUT_START = 1 << 48
_SEEDS_PER_STREAM = 1 << 40


@dataclass(frozen=True)
class Facts:
    """What a story is about.

    Attributes
    ----------
    people, things, places, causes : tuple of str
        Each in the order of the story; the first person is its hero.
    plots : tuple of str
        The plot of each chapter.
    hero_is : str
        "girl" or "boy".
    """

    people: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    causes: tuple[str, ...]
    plots: tuple[str, ...]
    hero_is: str

    @cached_property
    def fingerprint(self) -> int:
        """64 bits of SHA-256 over the sorted people, things, places and causes."""
        groups = (self.people, self.things, self.places, self.causes)
        canonical = "\n".join("|".join(sorted(group)) for group in groups)
        return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8], "big")

    @property
    def held_out(self) -> bool:
        """Whether training must not see this story."""
        return self.fingerprint % HELD_OUT_CLASSES == 0


@dataclass(frozen=True)
class Story:
    """A story, the questions it answers, and its facts."""

    seed: int
    text: str
    questions: tuple[Question, ...]
    facts: Facts


class Plan:
    """A story before it is told: its events and facts, fixed by ``seed`` and ``chapters``.

    Parameters
    ----------
    seed : int
        Any integer.
    chapters : int, optional
        The number of chapters, 1 to :data:`MAX_CHAPTERS`; drawn from the seed if not given
        (four stories in five have one).

    Raises
    ------
    ValueError
        If ``chapters`` is out of range.
    """

    def __init__(self, seed: int, chapters: int | None = None) -> None:
        if chapters is not None and not 1 <= chapters <= MAX_CHAPTERS:
            raise ValueError(f"chapters must be 1 to {MAX_CHAPTERS}, not {chapters}")
        self.seed = seed
        self._rng = rng = Random(seed)
        drawn = rng.random()
        if chapters is None:
            chapters = next(n for n, share in enumerate(_CHAPTER_SHARES, 1) if drawn < share)
        planner = Planner(rng)
        plots = rng.sample(list(PLOTS), chapters)
        for number, plot in enumerate(plots, 1):
            planner.chapter = number
            if chapters > 1:
                planner.emit("chapter", number=number)
            hero, friend = rng.sample(planner.cast[:3], 2) if number > 1 else planner.cast[:2]
            helper = planner.stranger() if rng.random() < 0.7 else _third(planner, hero, friend)
            PLOTS[plot](planner, hero, friend, helper)
        self.events: list[Event] = planner.events
        self.world = planner.world
        known = [person.name for person in planner.cast if person in planner.known]
        self.facts = Facts(
            tuple(known),
            tuple(thing.bare for thing in planner.things),
            tuple(place.noun for place in planner.places),
            tuple(planner.causes),
            tuple(plots),
            planner.cast[0].child,
        )

    def tell(self) -> Story:
        """Return the story; telling twice gives the same words."""
        rng = Random(self.facts.fingerprint ^ self.seed)
        return Story(
            self.seed, tell(self.events, rng), ask(self.events, self.world, rng), self.facts
        )


def _third(planner: Planner, hero: object, friend: object):
    return next(p for p in planner.cast[:3] if p is not hero and p is not friend)


def make_story(seed: int, chapters: int | None = None) -> Story:
    """Return the story of ``seed``, the same on every machine.

    See :class:`Plan` for the parameters.
    """
    return Plan(seed, chapters).tell()


def training_story(seed: int, index: int) -> Story | None:
    """Return story ``index`` of the training stream of ``seed``, or None if it is held out."""
    plan = Plan(seed * _SEEDS_PER_STREAM + index)
    return None if plan.facts.held_out else plan.tell()


def training_stories(seed: int) -> Iterator[Story]:
    """Yield the endless training stream of ``seed``."""
    stories = (training_story(seed, index) for index in count())
    return (story for story in stories if story is not None)


def held_out_stories(n: int, seed: int = 0, chapters: int | None = None) -> list[Story]:
    """Return ``n`` stories that no training stream contains.

    Parameters
    ----------
    n : int
        How many.
    seed : int
        Another seed gives other stories.
    chapters : int, optional
        The number of chapters of each; drawn per story if not given.
    """
    first = _HELD_OUT_START + seed * _SEEDS_PER_STREAM
    plans = (Plan(story_seed, chapters) for story_seed in count(first))
    return [plan.tell() for plan in islice((p for p in plans if p.facts.held_out), n)]
