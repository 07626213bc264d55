"""The world behind a story: who holds what, changed by events that must make sense.

A story is a list of events. :meth:`World.apply` refuses an event whose preconditions do not
hold (nobody gives away what they do not have), so that a plot cannot contradict itself, and
the answer to "Who has the red ball at the end?" is read off the world, never off the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm_numba.train.entities import Person, Thing

TAKES = frozenset({"has", "find", "rescue"})
"""Events after which ``who`` holds ``what``, which nobody held before."""
LEAVES = frozenset({"lose", "hide"})
"""Events after which nobody holds ``what``."""
PASSES = frozenset({"give", "return", "lend", "deliver"})
"""Events that hand ``what`` from ``who`` to ``whom``."""


@dataclass(eq=False)
class Event:
    """One thing that happens.

    Attributes
    ----------
    kind : str
        What happens, in the world's and the questions' terms.
    form : str
        Which sentence forms tell it.
    roles : dict
        The people, things, places and phrases that take part, by slot name.
    """

    kind: str
    form: str
    roles: dict[str, Any]


@dataclass
class World:
    """Who holds which thing; ``None`` for a thing that is lost or hidden."""

    holders: dict[Thing, Person | None] = field(default_factory=dict)

    def held_by(self, person: Person) -> list[Thing]:
        """Return the things that ``person`` holds, in the order they came into the story."""
        return [thing for thing, holder in self.holders.items() if holder is person]

    def apply(self, event: Event) -> None:
        """Advance the world by ``event``.

        Raises
        ------
        ValueError
            If the event contradicts the world.
        """
        kind, roles = event.kind, event.roles
        who, what = roles.get("who"), roles.get("what")
        if kind in TAKES:
            self._require(self.holders.get(what) is None, event)
            self.holders[what] = who
        elif kind in LEAVES:
            self._require(self.holders.get(what) is roles.get("owner", who), event)
            self.holders[what] = None
        elif kind in PASSES:
            self._require(self.holders.get(what) is who, event)
            self.holders[what] = roles["whom"]
        elif kind == "trade":
            other, whom = roles["what2"], roles["whom"]
            self._require(self.holders.get(what) is who, event)
            self._require(self.holders.get(other) is whom, event)
            self.holders[what], self.holders[other] = whom, who
        elif kind in ("break", "mend"):
            self._require(self.holders.get(what) is not None, event)

    @staticmethod
    def _require(condition: bool, event: Event) -> None:
        if not condition:
            raise ValueError(f"the event {event.kind!r} contradicts the world: {event.roles}")
