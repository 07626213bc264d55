"""Conversations: the chat template, how people ask for stories, and small talk."""

from __future__ import annotations

from random import Random

from llm_numba.train.grammar import choose
from llm_numba.train.stories import Story

BEGIN, END, USER, ASSISTANT, EOT, PAD = SPECIAL_TOKENS = (
    "<|begin|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|eot|>",
    "<|pad|>",
)

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['user', 'assistant'] %}
        {{- raise_exception("storyteller knows the roles 'user' and 'assistant' only") }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""

Message = dict[str, str]

_PLEASE = "[Tell me|Please tell me|Can you tell me|Write|I would like|Make up]"
_ABOUT = (
    "{hero}",
    "{hero} and {friend}",
    "{thing_a}",
    "{hero} and {thing_a}",
    "a {child} named {hero}",
    "a {child} who has {thing_a}",
    "{hero} in the {place}",
    "{theme}",
)
_THEMES = {
    "lost_and_found": "something that is lost",
    "broken_and_mended": "something that breaks",
    "hidden": "a secret",
    "traded": "two friends who trade",
    "lent": "lending and sharing",
    "rescue": "an animal in trouble",
    "baking": "baking",
    "errand": "a long way",
    "storm": "bad weather",
    "building": "building something",
}
_COUNTS = {2: "two", 3: "three", 4: "four"}
_GREETINGS = (
    (
        "[Hello|Hi|Hello there|Good morning|Hey][.|!]",
        "Hello! [Would you like to hear a story?|Shall I tell you a story?]",
    ),
    (
        "[Who are you?|What are you?|What is your name?]",
        "I am Storyteller. I tell short stories and answer questions about them.",
    ),
    (
        "[What can you do?|Help.|What should I ask?]",
        "I can tell you a story about a person or a thing. Then you can ask me about it.",
    ),
)
_THANKS = (
    (
        "[Thank you|Thanks|Thank you very much][.|!]",
        "You are welcome. [Shall I tell you another story?|I am glad you liked it.]",
    ),
    ("[Goodbye|Bye][.|!]", "Goodbye! Come back soon."),
    ("[That was nice|I liked that|What a nice story][.|!]", "I am glad that you liked it."),
)
_ASKING = (
    "{question}",
    "{question}",
    "{question}",
    "In the story, {lower}",
    "Tell me, {lower}",
    "Do you remember? {question}",
)
_READING = (
    "{story}\n\n{question}",
    "{story}\n\n{question}",
    "Read this story.\n\n{story}\n\n{question}",
    "Here is a story.\n\n{story}\n\nNow tell me, {lower}",
    "{story}\n\nQuestion: {question}",
)


def render(messages: list[Message]) -> str:
    """Return a conversation as the model sees it in training.

    The chat template gives the same text (a test compares them); a whole conversation ends with
    the token ``<|end|>``, which the template leaves out so that it can go on.
    """
    turns = (f"<|{message['role']}|>{message['content']}{EOT}" for message in messages)
    return BEGIN + "".join(turns)


def _turns(user: str, assistant: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _pick(options, rng: Random):
    return options[int(rng.random() * len(options))]


def _asked(template: str, question: str, **more: str) -> str:
    lower = question[0].lower() + question[1:]
    return template.format(question=question, lower=lower, **more)


def request(story: Story, rng: Random) -> str:
    """Return one of many ways to ask for ``story``; all it names is really in it."""
    facts = story.facts
    chapters = len(facts.plots)
    drawn = rng.random()
    if chapters > 1 and drawn < 0.5:
        kind = _pick(("a long story", f"a story with {_COUNTS[chapters]} chapters"), rng)
    else:
        kind = "a [short |little |nice |]story" if chapters == 1 else "a [nice |]story"
    if drawn > 0.8:
        wish = f"{_PLEASE} {kind}"
    else:
        options = [
            a
            for a in _ABOUT
            if (facts.things or "thing" not in a) and (facts.places or "place" not in a)
        ]
        wish = f"{_PLEASE} {kind} about {_pick(options, rng)}"
    if rng.random() < 0.1 and chapters == 1:
        wish = _pick(("A story[| about {hero}], please", "[Another one|One more], please"), rng)
    thing = _pick(facts.things, rng) if facts.things else ""
    asked = choose(wish, rng).format(
        hero=facts.people[0],
        friend=facts.people[min(1, len(facts.people) - 1)],
        child=facts.hero_is,
        thing_a=("an " if thing[:1] in tuple("aeiou") else "a ") + thing,
        place=_pick(facts.places, rng) if facts.places else "",
        theme=_THEMES[_pick(facts.plots, rng)],
    )
    return asked + ("?" if asked.startswith("Can you") else ".")


def told(story: Story, rng: Random, questions: int) -> list[Message]:
    """Return a conversation in which the model tells ``story`` and answers questions."""
    messages: list[Message] = []
    if rng.random() < 0.12:
        messages += _turns(*(choose(said, rng) for said in _pick(_GREETINGS, rng)))
    messages += _turns(request(story, rng), story.text)
    for question in story.questions[:questions]:
        messages += _turns(_asked(_pick(_ASKING, rng), question.text), question.answer)
    if rng.random() < 0.12:
        messages += _turns(*(choose(said, rng) for said in _pick(_THANKS, rng)))
    return messages


def is_answer(message: Message, story: Story) -> bool:
    """Return whether ``message`` answers a question about ``story``."""
    answers = {question.answer for question in story.questions}
    return message["role"] == "assistant" and message["content"] in answers


def read(story: Story, rng: Random, questions: int) -> list[Message]:
    """Return a conversation in which the user brings ``story`` and asks about it."""
    first, *others = story.questions[:questions]
    opening = _asked(_pick(_READING, rng), first.text, story=story.text)
    messages = _turns(opening, first.answer)
    for question in others:
        messages += _turns(_asked(_pick(_ASKING, rng), question.text), question.answer)
    return messages
