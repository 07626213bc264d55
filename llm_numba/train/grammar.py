"""A small template language: choices in brackets, roles in braces, and English's little rules.

``"[Then|Soon], {who} found {what} {spot}."`` is expanded in two steps: :func:`choose` picks one
alternative of every bracket (brackets nest), ``str.format`` fills the roles, and
:func:`sentence_case` gives each sentence its capital.
"""

from __future__ import annotations

import re
from functools import cache
from random import Random
from typing import Any

_SENTENCE_START = re.compile(r"(?:^|[.!?] |\n)[a-z]")


def with_article(phrase: str) -> str:
    """Return ``phrase`` with "a" or "an" before it.

    The words of the stories have no silent h and no "you" sound at the front of a
    vowel, so the first letter decides.
    """
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def capitalise(phrase: str) -> str:
    """Return ``phrase`` with its first letter large and the rest as it is."""
    return phrase[0].upper() + phrase[1:]


def sentence_case(text: str) -> str:
    """Return ``text`` with a capital at its start and after ". ", "! " and "? ".

    A closing quotation mark ends no sentence here: '"Oh no!" cried Tom' keeps its small c.
    """
    return _SENTENCE_START.sub(lambda match: match.group().upper(), text)


@cache
def _parse(template: str) -> tuple:
    """Split a template into plain strings and tuples of alternatives."""
    parts, position = _parse_until(template, 0, "]")
    if position != len(template):
        raise ValueError(f"unbalanced bracket in template {template!r}")
    return parts


def _parse_until(template: str, position: int, stops: str) -> tuple[tuple, int]:
    parts: list[str | tuple] = []
    plain: list[str] = []
    while position < len(template) and template[position] not in stops:
        if template[position] != "[":
            plain.append(template[position])
            position += 1
            continue
        parts.append("".join(plain))
        plain.clear()
        alternatives = []
        while True:
            alternative, position = _parse_until(template, position + 1, "|]")
            alternatives.append(alternative)
            if position == len(template):
                raise ValueError(f"unbalanced bracket in template {template!r}")
            if template[position] == "]":
                break
        parts.append(tuple(alternatives))
        position += 1
    parts.append("".join(plain))
    return tuple(parts), position


def choose(template: str, rng: Random) -> str:
    """Return ``template`` with one alternative taken, at random, from each ``[a|b]``."""
    return _choose(_parse(template), rng)


def _choose(parts: tuple, rng: Random) -> str:
    return "".join(
        part if isinstance(part, str) else _choose(part[int(rng.random() * len(part))], rng)
        for part in parts
    )


def clause(template: str, who: Any, what: Any = None, **roles: Any) -> tuple[str, str, str]:
    """Fill a cause with pronouns, with the person's name, and with all names.

    Parameters
    ----------
    template : str
        A clause with the slots ``{he}``, ``{his}``, ``{whim}`` (of ``who``) and ``{it}``
        (``what``).
    who, what
        The person and the thing that the clause is about.

    Returns
    -------
    after, named, before : str
        ``after`` reads well where its subject is plain ("he dropped it"), ``named`` where two
        people might be meant ("Tom dropped it"), ``before`` where it opens a sentence ("Tom
        dropped the red cup").
    """
    roles |= {"who": who, "what": what}
    names = {"he": who, "his": f"{who}'s", "whim": who}
    after = template.format(he=who.he, his=who.his, whim=who.him, it="it", **roles)
    return (
        after,
        template.format(**names, it="it", **roles),
        template.format(**names, it=what, **roles),
    )
