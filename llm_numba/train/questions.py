"""Questions about a story, asked only where the story gives exactly one answer.

Every event makes *claims*: a question in each of its wordings, with the answer that the event
gives. A question is asked only if all claims to it agree. Some claims are never asked and only
guard others: a thing that is traded was also "given", so "Who gave the red ball to Mia?" must
not be asked about another gift of the same ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from llm_numba.train.grammar import capitalise
from llm_numba.train.world import Event, World


@dataclass(frozen=True)
class Question:
    """A question, its answer and its kind (one of :data:`KINDS`)."""

    kind: str
    text: str
    answer: str


KINDS = ("who", "whom", "what", "colour", "where", "why", "feeling", "holder", "tool", "name")

# fmt: off
# event kind: ((question kind, answer, wordings), ...)
_CLAIMS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "open": (("where", "{home}", ("Where did {who} live?", "Where was {who}'s home?")),),
    "made": (
        ("who", "{who.his} {kin}", ("Who made {what}?", "Who made {what.short} for {who}?")),
    ),
    "go": (("where", "{place.to}", ("Where did {who} and {whom} go?",
                                    "Where did {who} and {whom} go together?")),),
    "lose": (
        ("who", "{who}", ("Who lost {what}?", "Who lost {what.short}?",
                          "Who was it that lost {what}?")),
        ("what", "{what}", ("What did {who} lose?", "Which thing did {who} lose?")),
        ("where", "{place.at}", ("Where did {who} lose {what}?", "Where was {what.short} lost?")),
        ("why", "because {why}", ("Why did {who} lose {what}?", "Why was {what.short} lost?")),
    ),
    "search": (
        ("who", "{who}", ("Who looked {spot}?", "Who searched {spot}?")),
        ("what", "only {junk}", ("What did {who} see {spot}?", "What was {spot}?")),
    ),
    "find": (
        ("who", "{who}", ("Who found {what}?", "Who found {what.short}?",
                          "Who was it that found {what}?")),
        ("what", "{what}", ("What did {who} find?", "What was {spot}?")),
        ("where", "{spot}", ("Where did {who} find {what}?", "Where was {what.short} found?",
                             "Where was {what.short} when {who} found it?")),
    ),
    "return": (
        ("who", "{who}", ("Who gave {what} back to {whom}?", "Who gave {what.short} back?")),
    ),
    "lend": (
        ("who", "{who}", ("Who lent {what} to {whom}?", "Who lent {what.short} to {whom}?")),
        ("whom", "{whom}", ("Who borrowed {what} from {who}?",
                            "To whom did {who} lend {what}?")),
        ("what", "{what}", ("What did {who} lend to {whom}?",
                            "What did {whom} borrow from {who}?")),
        ("why", "because {named}", ("Why did {who} lend {what} to {whom}?",
                                  "Why did {whom} borrow {what}?")),
    ),
    "give": (
        ("who", "{who}", ("Who gave {what} to {whom}?", "Who gave {what.short} to {whom}?")),
        ("whom", "{whom}", ("To whom did {who} give {what}?",
                            "Who got {what} from {who}?")),
        ("what", "{what}", ("What did {who} give to {whom}?", "What did {whom} get from {who}?")),
    ),
    "deliver": (
        ("who", "{who}", ("Who gave {what} to {whom}?", "Who brought {what} to {whom}?")),
        ("whom", "{whom}", ("To whom did {who} give {what}?", "To whom did {who} bring {what}?")),
        ("what", "{what}", ("What did {who} bring to {whom}?",)),
    ),
    "break": (
        ("what", "{what}", ("Which thing {what.broke}?", "What {what.broke}?")),
        ("where", "{place.at}", ("Where were they when {what} {what.broke}?",)),
        ("why", "because {named}", ("Why did {what} {tear}?",
                                    "Why was {what.short} {what.broken}?")),
    ),
    "try": (
        ("who", "{who}", ("Who tried {tool}?", "Who tried to use {tool}?")),
        ("tool", "{tool}", ("What did {who} try to mend {what.short} with?",
                            "What did {who} try first?")),
    ),
    "mend": (
        ("who", "{who}", ("Who mended {what}?", "Who mended {what.short}?")),
        ("tool", "{tool}", ("What was {what} mended with?",
                            "What did {who} mend {what.short} with?")),
    ),
    "hide": (
        ("who", "{who}", ("Who hid {what}?", "Who hid {what.short}?")),
        ("what", "{what}", ("What did {who} hide?", "Which thing did {who} hide?")),
        ("where", "{spot}", ("Where did {who} hide {what}?", "Where was {what.short} hidden?")),
        ("why", "because {why}", ("Why did {who} hide {what}?", "Why was {what.short} hidden?")),
    ),
    "tell": (("who", "{who}", ("Who told {whom} where to look?", "Who told {whom} to look?")),),
    "want": (
        ("what", "{what}", ("Which thing did {who} want?", "Which thing did {who} want to have?")),
        ("why", "because {why}", ("Why did {who} want {what}?",
                                  "Why did {who} want {what.short}?")),
    ),
    "trade": (
        ("what", "{what2}", ("What did {who} get from {whom}?",
                             "What did {whom} trade for {what}?")),
        ("what", "{what}", ("What did {whom} get from {who}?",
                            "What did {who} trade for {what2}?")),
        ("whom", "{whom}", ("With whom did {who} trade?", "Who traded with {who}?")),
    ),
    "keep": (("who", "{whom}", ("Who could keep {what}?", "Who was allowed to keep {what}?")),),
    "stuck": (
        ("what", "{what}", ("Which animal was in trouble?", "Which animal was stuck?")),
        ("where", "{trap}", ("Where was {what} stuck?", "Where was {what.short} stuck?")),
        ("why", "because {why}", ("Why was {what} there?", "Why was {what.short} stuck?")),
    ),
    "reach": (("why", "because {why}", ("Why could {who} not reach {what}?",
                                        "Why could {who} not help {what.short}?")),),
    "fetch": (
        ("who", "{who}", ("Who ran {place.to}?", "Who ran to get help?")),
        ("where", "{place.to}", ("Where did {who} run to get help?",)),
    ),
    "rescue": (
        ("who", "{who}", ("Who saved {what}?", "Who saved {what.short}?")),
        ("tool", "{tool}", ("What was {what.short} saved with?",
                            "What did {who} save {what.short} with?")),
    ),
    "name": (
        ("name", "{pet}", ("What was the name of {what}?", "What was {what.short} called?")),
        ("who", "{who}", ("Who gave {what.short} its name?", "Who named {what}?")),
    ),
    "bake_plan": (
        ("what", "{food}", ("What did {who} want to bake?", "What did {who} bake for {whom}?")),
        ("whom", "{whom}", ("For whom did {who} bake?", "For whom was {food}?")),
        ("why", "because {why}", ("Why did {who} want to bake for {whom}?",
                                  "Why did {who} bake for {whom}?")),
    ),
    "short": (
        ("what", "some {missing}", ("What was missing in the kitchen?", "What did {who} need?")),
        ("why", "because {why}", ("Why was there no {missing}?",
                                  "Why did {who} have no {missing}?")),
    ),
    "meet": (("where", "{place.at}", ("Where did {who} meet {whom}?",)),),
    "provide": (
        ("who", "{who}", ("Who gave {missing} to {whom}?", "Who had some {missing}?")),
    ),
    "errand": (
        ("whom", "{whom}", ("For whom was {what}?", "To whom was {hero} sent?")),
        ("where", "{place.at}", ("Where was {whom} waiting?",)),
        ("why", "because {why}", ("Why was {hero} sent to {whom}?",
                                  "Why did {hero} have to go to {whom}?")),
    ),
    "barred": (("why", "because {why}", ("Why did {who} have to stop?",
                                         "Why could {who} not go on?")),),
    "guide": (
        ("who", "{who}", ("Who knew another way?", "Who showed {whom} the way?")),
        ("where", "past {place}", ("Where did {who} lead {whom}?",)),
    ),
    "pastime": (("what", "to {pastime}", ("What did {who} and {whom} want to do?",)),),
    "shelter": (
        ("where", "{place.to}", ("Where did {who} and {whom} run?", "Where did they run?")),
        ("why", "because {why}", ("Why did {who} and {whom} run {place.to}?",
                                  "Why did they run {place.to}?")),
    ),
    "host": (
        ("who", "{who}", ("Who gave them {food}?",)),
        ("what", "{food}", ("What did {who} give them to warm up?", "What did {who} give them?")),
    ),
    "build_plan": (
        ("what", "{building}", ("What did {who} and {whom} build?", "What did they build?")),
        ("where", "{place.at}", ("Where did {who} and {whom} build {building}?",
                                 "Where did they build {building}?")),
        ("why", "because {why}", ("Why did {who} and {whom} build {building}?",
                                  "Why did they build {building}?")),
    ),
    "collapse": (("why", "because {why}", ("Why did {building} fall down?",)),),
    "supply": (
        ("who", "{who}", ("Who brought {material}?", "Who gave them {material}?")),
        ("what", "{material}", ("What did {who} bring them?", "What did {who} give them?")),
    ),
    "feel": (
        ("feeling", "{who} felt {feeling}", ("How did {who} feel when {when}?",
                                             "How was {who} when {when}?")),
        ("who", "{who}", ("Who felt {feeling}?", "Who was {feeling}?")),
    ),
}

# Said by another event, in the words of a question above: these claims are never asked.
_GIVEN = (
    ("who", "{who}", ("Who gave {what} to {whom}?", "Who gave {what.short} to {whom}?")),
    ("whom", "{whom}", ("To whom did {who} give {what}?", "Who got {what} from {who}?")),
    ("what", "{what}", ("What did {who} give to {whom}?", "What did {whom} get from {who}?")),
)
_GUARDS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "return": _GIVEN,
    "lend": _GIVEN,
    "trade": (
        *_GIVEN,
        ("who", "{whom}", ("Who gave {what2} to {who}?",)),
        ("whom", "{who}", ("To whom did {whom} give {what2}?", "Who got {what2} from {whom}?")),
        ("what", "{what2}", ("What did {whom} give to {who}?",)),
    ),
    "keep": _GIVEN,
    "search": (("what", "only {junk}", ("What did {who} find?",)),),
    "provide": (("what", "some {missing}", ("What did {who} give to {whom}?",
                                            "What did {whom} get from {who}?")),),
    "go": (("where", "{place.to}", ("Where did {whom} and {who} go?",
                                    "Where did {whom} and {who} go together?")),),
    "build_plan": (("where", "{place.to}", ("Where did {who} and {whom} go?",
                                            "Where did {whom} and {who} go?",
                                            "Where did {who} and {whom} go together?",
                                            "Where did {whom} and {who} go together?")),),
}
# fmt: on


def ask(events: list[Event], world: World, rng: Random, most: int = 8) -> tuple[Question, ...]:
    """Return up to ``most`` questions that ``events`` answer, in random order.

    A question's other wordings are not asked, and no kind takes more than half.

    Parameters
    ----------
    events : list of Event
        The whole story.
    world : World
        The world at its end, for "Who has ... at the end?".
    rng : random.Random
        Chooses the questions and their wordings.
    most : int
        The largest number of questions.
    """
    groups = _claims(events, world)
    answers: dict[str, set[str]] = {}
    for group, _ in groups:
        for question in group:
            answers.setdefault(question.text, set()).add(question.answer)
    rounds: dict[str, list[Question]] = {}
    asked: list[Question] = []
    for group, askable in groups:
        clear = [question for question in group if len(answers[question.text]) == 1]
        if askable and clear:
            question = clear[int(rng.random() * len(clear))]
            rounds.setdefault(question.kind, []).append(question)
    for questions in rounds.values():
        rng.shuffle(questions)
    kinds = list(rounds)
    while len(asked) < most and kinds:
        kind = kinds[int(rng.random() * len(kinds))]
        asked.append(rounds[kind].pop())
        if not rounds[kind]:
            kinds.remove(kind)
    return tuple(asked)


def _claims(events: list[Event], world: World) -> list[tuple[list[Question], bool]]:
    """Return groups of wordings of one question each, and whether the group may be asked."""
    groups = []
    for event in events:
        for table, askable in ((_CLAIMS, True), (_GUARDS, False)):
            for kind, answer, wordings in table.get(event.kind, ()):
                groups.append((_fill(kind, answer, wordings, event.roles), askable))
    for thing, holder in world.holders.items():
        colour = (f"What colour was {thing.short}?", f"Which colour did {thing.short} have?")
        groups.append((_fill("colour", f"it was {thing.colour}", colour, {}), True))
        if holder is not None:
            texts = (
                f"Who has {thing} at the end?",
                f"Who has {thing.short} at the end?",
                f"At the end of the story, who has {thing}?",
            )
            groups.append((_fill("holder", holder.name, texts, {}), True))
    return groups


def _fill(kind: str, answer: str, wordings: tuple[str, ...], roles: dict) -> list[Question]:
    tear = "tear" if roles and getattr(roles.get("what"), "broke", "") == "tore" else "break"
    said = capitalise(answer.format(**roles)) + "."
    return [Question(kind, wording.format(tear=tear, **roles), said) for wording in wordings]
