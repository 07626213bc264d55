"""Sentence forms for what frames every story: beginnings, comings and goings, feelings, endings.

Slots: ``{who}`` and ``{whom}`` are people (``.he .him .his .He .His .child``), ``{what}`` is a
thing (``the red ball``, ``.a`` a red ball, ``.short`` the ball, ``.doing`` bouncing), ``{place}``
a place (``.at .to``); ``{why}``, ``{named}`` and ``{fact}`` are readings of a cause, see
:func:`~llm_numba.train.grammar.clause`.
Brackets hold alternatives; see :mod:`~llm_numba.train.grammar`.
"""

FRAME: dict[str, tuple[str, ...]] = {
    # Beginnings
    "open": (
        "Once upon a time[,|] there was a [little |young |cheerful |quiet |]{who.child} "
        "[named|called] {who}[ who|. {who.He}] lived {home}.",
        "[Long ago|Once], a [little |cheerful |curious |]{who.child} [named|called] {who} "
        "lived {home}.",
        "{who} was a [kind|brave|curious|gentle|cheerful|clever] {who.child} "
        "[who lived|and lived] {home}.",
        "[In a land of green hills|In a country far away|Not so long ago], there lived a "
        "{who.child} [named|called] {who}. {who.He} lived {home}.",
        "One morning, {who} woke up early. {who.He} lived {home}, [and the birds were singing|"
        "and the sun was already shining|and the air smelled of bread].",
        "This is a story about {who}, a [little|kind|brave|merry] {who.child} who lived {home}.",
    ),
    "open_later": (
        "There was also a [young |cheerful |]{who.child} [named|called] {who}, who lived {home}.",
        "Now we hear of {who}, a [young |brave |]{who.child} who lived {home}.",
    ),
    "has_hero": (
        "{who.He} had {what.a}[, and {who.he} loved it very much| and took it everywhere|"
        ", and {who.he} was very proud of it|].",
        "[More than anything|Of all {who.his} things], {who} loved {who.his} {what.bare}.",
        "{who.His} greatest treasure was {what.a}.",
        "Everybody knew {who.him} because {who.he} was always {what.doing} {what.a}.",
    ),
    "has_now": (
        "[By now|At that time], {who} had {what.a}.",
        "{who} had {what.a}, and {who.he} was [always|often] {what.doing} it.",
        "{who} had got {what.a} [from {who.his} parents|for {who.his} birthday].",
    ),
    "has_friend": (
        "{whom.His} [best |good |]friend was a {who.child} [named|called] {who}, who had {what.a}.",
        "{whom.His} friend {who} had {what.a}.",
        "Next door lived {whom.his} friend {who}, who [had|owned] {what.a}.",
        "{whom.His} friend {who} [was always|liked] {what.doing} {what.a}.",
    ),
    "has_friend_later": (
        "{whom} had a friend [named|called] {who}, who had {what.a}.",
        "{whom} had got to know a {who.child} [named|called] {who}, who owned {what.a}.",
    ),
    "has_quiet": (
        "[In {who.his} bag|At home], {who} had {what.a}.",
        "{who} [also had|had brought] {what.a}.",
    ),
    "made": (
        "{who.His} {kin} had made it for {who.him}.",
        "It had been made by {who.his} {kin}.",
        "{who.His} {kin} had [once |]made it[ one winter| with great care|].",
    ),
    "go": (
        "One [sunny|cold|windy|warm|bright|misty] [morning|afternoon|day], {who} and {whom} went "
        "{place.to}[ together| to play|].",
        "[One day|One Sunday|In the spring|One autumn day], {who} [met {whom} {place.at}|"
        "and {whom} walked {place.to}].",
        '"[Come with me|Let us go] {place.to}," said {who} [one day|one morning]. So {who} and '
        "{whom} [went there|set off] together.",
    ),
    "go_later": (
        "[The next day|A week later|Some days later|On Monday], {who} and {whom} went "
        "{place.to}[ together|].",
        "[The next morning|Soon after|When the weekend came], {who} met {whom} {place.at}.",
    ),
    "arrive": (
        "[Just then|After a while|Soon|Then], {intro} came [by|along].",
        "[At that moment|A little later], {intro} [appeared|walked past].",
    ),
    "arrive_with": (
        "[Just then|After a while|Soon|Then], {intro} came [by|along] with {what.a}.",
        "[At that moment|A little later], there was {intro}, {what.doing} {what.a}.",
    ),
    # Feelings and thanks
    "feel_sad": (
        "{who} [was|felt] [very |so |]{feeling}.",
        "Poor {who}! {who.He} was [very |]{feeling}[| and {sign}].",
        "{who} was so {feeling} that {who.he} {sign}.",
        '"Oh no!" said {who}, who was [very |]{feeling}.',
        "That made {who} [very |]{feeling}[|, and {who.he} {sign}].",
    ),
    "feel_glad": (
        "{who} [was|felt] [very |so |]{feeling}.",
        "{who} was so {feeling} that {who.he} {sign}.",
        "{who} [was|felt] [very |]{feeling} and {sign}.",
        "Now {who} [was|felt] {feeling}.",
        '"How wonderful!" said {who}, who was [very |]{feeling}.',
    ),
    "feel_relief": (
        "{who} felt {feeling}, because {whom} was not angry.",
        "{whom} was not angry, and {who} felt [very |]{feeling}.",
    ),
    "thank": (
        '"Thank you[ so much|]," said {who} to {whom}.',
        '"What would I do without you?" said {who} to {whom}.',
        "{who} thanked {whom} [with all {who.his} heart|again and again].",
    ),
    "give_thanks": (
        "To say thank you, {who} gave {what} to {whom}.",
        '"Thank you," said {who}, and gave {what} to {whom}.',
    ),
    # Endings
    "close_care": (
        "From that day on, {who} took better care of {what.short}.",
        "And [after that|from then on], {who} always knew where {what.short} was.",
        "[That evening|On the way home], {who} held {what.short} tightly.",
        "A good friend is worth more than any treasure.",
    ),
    "close_use": (
        "{what.short} looked as good as new, and perhaps even better.",
        "What is broken can be mended, if somebody helps.",
        "And [they all|everybody] went home for supper.",
    ),
    "close_friends": (
        "From then on, {who} and {whom} [had no more secrets|told each other everything].",
        "And the two of them played until [the stars came out|it was dark].",
        "After that, they were better friends than ever.",
    ),
    "close_share": (
        "Good things are best when they are shared.",
        "{who} and {whom} [stayed friends for ever|were friends from that day on].",
        "And they all [laughed about it|talked about it] for a long time.",
    ),
    "close_pet": (
        "That night, {what.short} slept [at the foot of the bed|in a warm box by the fire].",
        "And from that day on, {who} and {what.short} were always together.",
        "{what.short} never went far from {who} again.",
    ),
    "close_food": (
        "The whole house smelled [sweet|wonderful] that day.",
        "Food tastes best when it is shared.",
        "{who} never forgot how {whom} had helped {who.him}.",
    ),
    "close_brave": (
        "{who} walked home [under the stars|singing], and the way seemed short.",
        "After that, everybody knew that they could count on {who}.",
        "Where there is a friend, there is always a way.",
    ),
    "close_sky": (
        "When they went home, there was a rainbow over the hills.",
        "[In the evening|At last] the sky was clear, and {who} and {whom} walked home together.",
        "Even a rainy day can be a good day.",
    ),
    "close_built": (
        "They sat there until the sun went down.",
        "{who} and {whom} were friends for the rest of their lives.",
        "What two people begin, three can finish.",
    ),
}
