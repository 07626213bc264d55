"""The people, things and places of a story, with the word forms that sentences need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llm_numba.train.grammar import with_article


@dataclass(eq=False)
class Person:
    """Somebody in a story; grown-ups have a ``trade``."""

    name: str
    she: bool
    trade: str = ""

    def __post_init__(self) -> None:
        self.he, self.him, self.his = ("she", "her", "her") if self.she else ("he", "him", "his")
        self.He, self.His = self.he.capitalize(), self.his.capitalize()
        young, old = ("girl", "woman") if self.she else ("boy", "man")
        self.child = old if self.trade else young

    def __str__(self) -> str:
        return self.name


_TEARS = ("cloth", "soft", "paper")


@dataclass(eq=False)
class Thing:
    """Something one can own: a noun with a colour. ``sort`` says how it is lost and mended."""

    colour: str
    noun: str
    sort: str
    doing: str

    @cached_property
    def bare(self) -> str:
        """Colour and noun: "red ball"."""
        return f"{self.colour} {self.noun}"

    @cached_property
    def a(self) -> str:
        """With its article: "an orange ball"."""
        return with_article(self.bare)

    @cached_property
    def short(self) -> str:
        """Without its colour: "the ball"."""
        return f"the {self.noun}"

    @property
    def broke(self) -> str:
        """How it went to pieces: "broke" or "tore"."""
        return "tore" if self.sort in _TEARS else "broke"

    @property
    def broken(self) -> str:
        """What it then is: "broken" or "torn"."""
        return "torn" if self.sort in _TEARS else "broken"

    def __str__(self) -> str:
        return f"the {self.bare}"


@dataclass(frozen=True, eq=False)
class Place:
    """Somewhere to go, with the small spots where things get lost and hidden.

    ``indoors`` says whether it has a roof.
    """

    noun: str
    preposition: str
    spots: tuple[str, ...]
    indoors: bool

    @property
    def at(self) -> str:
        """Being there: "in the park"."""
        return f"{self.preposition} the {self.noun}"

    @property
    def to(self) -> str:
        """Going there: "to the park"."""
        return f"to the {self.noun}"

    def __str__(self) -> str:
        return f"the {self.noun}"
