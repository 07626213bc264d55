"""Tell a story: turn its events into sentences, each in one of several forms."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from llm_numba.train.forms_frame import FRAME
from llm_numba.train.forms_plots import EVENTS
from llm_numba.train.grammar import choose, sentence_case
from llm_numba.train.world import Event

FORMS = FRAME | EVENTS
"""Form name (see :class:`~llm_numba.train.world.Event`): its sentence forms."""

_CHAPTERS = ("One", "Two", "Three", "Four")


def tell(events: Iterable[Event], rng: Random) -> str:
    """Return the story that ``events`` make, in paragraphs.

    Chance picks only the wording: the same events always tell the same facts.
    """
    paragraphs: list[list[str]] = [[]]
    for event in events:
        if event.form == "paragraph":
            paragraphs.append([])
        elif event.form == "chapter":
            paragraphs.append([f"Chapter {_CHAPTERS[event.roles['number'] - 1]}"])
            paragraphs.append([])
        else:
            forms = FORMS[event.form]
            form = choose(forms[int(rng.random() * len(forms))], rng)
            paragraphs[-1].append(sentence_case(form.format(**event.roles)))
    return "\n\n".join(" ".join(sentences) for sentences in paragraphs if sentences)
