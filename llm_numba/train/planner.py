"""Plan a story: choose its people, things and places, and let a plot move the world.

A plan fixes every fact of a story and none of its wording. :mod:`~llm_numba.train.plots` holds
the plots; this module holds what they share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, TypeVar

from llm_numba.train import words
from llm_numba.train.entities import Person, Place, Thing
from llm_numba.train.grammar import clause
from llm_numba.train.world import Event, World

T = TypeVar("T")

_INVENTED = 0.08
"""The share of children whose names are made up."""


class Planner:
    """The state of a plan under way.

    Parameters
    ----------
    rng : random.Random
        The only source of chance.

    Attributes
    ----------
    events : list of Event
        What happens, in order; a "paragraph" or "chapter" event only shapes the text.
    cast : list of Person
        Everybody who has come into the story so far or may still come.
    things, places : list
        What has come into the story so far.
    causes : list of str
        Every cause, in names ("Tom dropped the red cup").
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.world = World()
        self.events: list[Event] = []
        self.things: list[Thing] = []
        self.places: list[Place] = []
        self.causes: list[str] = []
        self.known: set[Person] = set()
        self.chapter = 1
        self._names = rng.sample(words.GIRLS, 5) + rng.sample(words.BOYS, 5)
        rng.shuffle(self._names)
        self._colours = list(words.COLOURS)
        self._nouns = list(words.THINGS)
        rng.shuffle(self._colours)
        rng.shuffle(self._nouns)
        self._places = list(words.PLACES)
        rng.shuffle(self._places)
        self.cast = [self.child(), self.child(), self.child()]

    # Chance

    def pick(self, options: Sequence[T]) -> T:
        """Return one of ``options``."""
        return options[int(self.rng.random() * len(options))]

    def maybe(self, probability: float) -> bool:
        """Return True with ``probability``."""
        return self.rng.random() < probability

    # People, things and places

    def child(self) -> Person:
        """Return a child whose name is new to the story."""
        name = self._names.pop()
        if self.maybe(_INVENTED):
            return Person(words.invent_name(self.rng), self.maybe(0.5))
        return Person(name, name in words.GIRLS)

    def grown_up(self) -> Person:
        """Return a grown-up with a name and a trade new to the story."""
        taken = {(p.name, p.trade) for p in self.cast}
        while True:
            she = self.maybe(0.5)
            name, trade = self.pick(words.WOMEN if she else words.MEN), self.pick(words.TRADES)
            if all(name != n and trade != t for n, t in taken):
                return Person(name, she, trade)

    def stranger(self, grown_up: float = 0.5) -> Person:
        """Return somebody for a helping part: new in chapter one, later often known."""
        others = self.cast[3:]
        if others and self.maybe(0.6):
            return self.pick(others)
        person = self.grown_up() if self.maybe(grown_up) or not self._names else self.child()
        self.cast.append(person)
        return person

    def thing(self, *sorts: str) -> Thing:
        """Return a thing whose noun (and, while they last, colour) is new to the story."""
        nouns = [n for n in self._nouns if not sorts or words.THINGS[n][0] in sorts]
        noun = (nouns or self._nouns)[0]
        self._nouns.remove(noun)
        colour = self._colours.pop() if self._colours else self.pick(words.COLOURS)
        sort, doing = words.THINGS[noun]
        thing = Thing(colour, noun, sort, doing)
        self.things.append(thing)
        return thing

    def animal(self) -> Thing:
        """Return an animal, which has a colour as things do."""
        taken = {thing.noun for thing in self.things}
        noun = self.pick([a for a in words.ANIMALS if a not in taken])
        colour = self.pick(("white", "black", "brown", "grey"))
        thing = Thing(colour, noun, "animal", "stroking")
        self.things.append(thing)
        return thing

    def place(self, indoors: bool | None = None) -> Place:
        """Return a place that is new to the story, with or without a roof if that matters."""
        fitting = [p for p in self._places if indoors is None or p.indoors == indoors]
        place = (fitting or self._places)[0]
        self._places.remove(place)
        self.places.append(place)
        return place

    def spots(self, place: Place, count: int) -> list[str]:
        """Return ``count`` different spots of ``place``."""
        return self.rng.sample(place.spots, count)

    # Events

    def emit(self, form: str, kind: str | None = None, **roles: Any) -> None:
        """Let an event happen; ``kind`` is ``form`` unless given."""
        event = Event(kind or form, form, roles)
        self.world.apply(event)
        self.events.append(event)

    def paragraph(self) -> None:
        """Begin a new paragraph."""
        self.emit("paragraph")

    def because(self, causes: Iterable[str], who: Person, what: Any = None, **roles: Any) -> dict:
        """Return the slots of one of ``causes``, and remember the cause.

        ``why``, ``named`` and ``fact`` are the readings of
        :func:`~llm_numba.train.grammar.clause`; ``then`` names ``who`` after ``fact``: by a
        pronoun if ``fact`` has named them already.
        """
        after, named, before = clause(self.pick(tuple(causes)), who, what, **roles)
        self.causes.append(before)
        then = who.he if str(who) in before else who
        return {"why": after, "named": named, "fact": before, "then": then}

    # What every plot begins with

    def introduce(self, who: Person) -> str:
        """Return how to name ``who``: in full the first time, by name from then on."""
        if who in self.known:
            return who.name
        self.known.add(who)
        if who.trade:
            return f"{who.name} the {who.trade}"
        return f"a {who.child} named {who.name}"

    def open(self, hero: Person) -> None:
        """Bring the hero in: a home in chapter one, no more than a name later."""
        if hero not in self.known:
            form = "open" if self.chapter == 1 else "open_later"
            self.emit(form, "open", who=hero, home=self.pick(words.HOMES))
        self.known.add(hero)

    def own(self, hero: Person, *sorts: str) -> Thing:
        """Return a thing that the hero holds, telling how it was come by if it is new."""
        held = [t for t in self.world.held_by(hero) if not sorts or t.sort in sorts]
        held = [t for t in held if t.sort != "animal"]
        if held:
            return self.pick(held)
        what = self.thing(*sorts)
        if self.chapter == 1:
            self.emit("has_hero", "has", who=hero, what=what)
        else:
            self.emit("has_now", "has", who=hero, what=what)
        if self.maybe(0.4):
            self.emit("made", who=hero, what=what, kin=self.pick(words.KIN))
        return what

    def befriend(self, hero: Person, friend: Person) -> Thing:
        """Bring the friend in, with a thing of their own."""
        held = [t for t in self.world.held_by(friend) if t.sort != "animal"]
        if held:
            return self.pick(held)
        what = self.thing()
        form = "has_friend" if self.chapter == 1 else "has_friend_later"
        if friend in self.known:
            form = "has_now"
        self.known.add(friend)
        self.emit(form, "has", who=friend, whom=hero, what=what)
        return what

    def go(self, who: Person, whom: Person, indoors: bool | None = None) -> Place:
        """Send two people somewhere."""
        place = self.place(indoors)
        self.known.update((who, whom))
        self.emit("go" if self.chapter == 1 else "go_later", "go", who=who, whom=whom, place=place)
        return place

    def arrive(self, who: Person, carrying: float = 0.6) -> None:
        """Let somebody come by, often with a thing of their own: a distractor."""
        intro = self.introduce(who)
        if self.maybe(carrying) and not self.world.held_by(who):
            self.emit("arrive_with", "has", who=who, intro=intro, what=self.thing())
        else:
            self.emit("arrive", who=who, intro=intro)

    def feel(
        self, who: Person, feelings: dict[str, str], when: str, form: str, **roles: Any
    ) -> None:
        """Let ``who`` have one of ``feelings``.

        ``when`` completes "How did Tom feel when ...".
        """
        feeling, sign = self.pick(tuple(feelings.items()))
        sign = sign.format(his=who.his)
        self.emit(form, "feel", who=who, feeling=feeling, sign=sign, when=when, **roles)

    def thank(self, who: Person, whom: Person) -> None:
        """Let ``who`` thank ``whom``, sometimes with a present."""
        if self.maybe(0.4):
            what = self.thing()
            self.emit("has_quiet", "has", who=who, what=what)
            self.emit("give_thanks", "give", who=who, whom=whom, what=what)
        else:
            self.emit("thank", who=who, whom=whom)
