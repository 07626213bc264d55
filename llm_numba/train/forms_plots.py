"""Sentence forms for what happens in each plot; slots as in :mod:`~llm_numba.train.forms_frame`."""

EVENTS: dict[str, tuple[str, ...]] = {
    # Lost and found
    "lose": (
        "But then {who} lost {what}, because {why}.",
        "[There|But while they were playing|But not long after that], {who} lost {what}. "
        "[It happened because|That was because] {why}.",
        "{fact}, and so {then} lost {what.short}. [Now it was gone|It was nowhere to be seen].",
        "They were having fun when {who} lost {what}. [Why? Because|It was lost because] {why}.",
    ),
    "search": (
        "{who} looked {spot}, but {who.he} [saw|found] only {junk}.",
        'First, {who} looked {spot}. "[No|Not here], I see only {junk}," said {who}.',
        "{who} searched {spot}, but all {who.he} found was {junk}.",
    ),
    "search_on": (
        "Then {who} looked {spot}, but [saw only|all {who.he} found was] {junk}.",
        "After that, {who} searched {spot} and found [just|only] {junk}.",
    ),
    "find": (
        '"[Look|Here it is]!" [cried|called] {who}, who had found {what} {spot}.',
        "{who} [helped them and|joined them and soon] found {what} {spot}.",
        "It was {who} who [found|saw] {what}. It was {spot}!",
        "{who} [looked around and|went on looking and] found {what} {spot}.",
    ),
    "return": (
        "{who} gave {what} back to {whom}.",
        "Smiling, {who} [brought {what} back|handed {what} back] to {whom}.",
        '"[This is yours|Here you are]," said {who}, and gave {what.short} back to {whom}.',
    ),
    # Broken and mended
    "break": (
        "But {what} {what.broke}, because {named}.",
        "Then {what} [suddenly |]{what.broke}. [That was because|It happened because] {named}.",
        "{fact}, and so it {what.broke}.",
        "[What a pity|Oh dear]! {fact}, so {what.short} was {what.broken}.",
    ),
    "try": (
        "{who} tried to mend it with {tool}, but it [came apart|fell apart] again.",
        "First, {who} tried {tool}, but that did not [work|help].",
        '"I will mend it with {tool}," said {who}, but it did not hold.',
    ),
    "mend": (
        "{who} took out {tool} and mended {what}.",
        '"[I can help|Let me try]," said {who}, and mended {what} with {tool}.',
        "With {tool}, {who} mended {what}[ in no time| very carefully|].",
    ),
    # Hidden
    "hide": (
        "While {whom} was [looking away|eating an apple|watching the birds], {who} hid "
        "{what} {spot}. {who.He} did it because {why}.",
        "{who} took {what} and hid it {spot}, because {why}.",
        "[When nobody was looking|When {whom} turned around], {who} hid {what} {spot}. "
        "[Why? Because|It was because] {why}.",
    ),
    "tell": (
        '"I saw [it all|everything]," said {who}. "Look {spot}!"',
        "{who} had seen [it all|everything] and told {whom} to look {spot}.",
    ),
    "find_there": (
        "{who} ran to look, and there {who.he} found {what}.",
        "And really, {who} found {what} there.",
    ),
    "find_back": (
        "{who} [could not bear it any longer|felt bad about it]. {who.He} went and found {what} "
        "{spot}, where it had been all the time.",
        "In the end, {who} told the truth. {who.He} went to look and found {what} {spot}.",
    ),
    "sorry": (
        '"I am [so |very |]sorry," said {who}.',
        "{who} said that {who.he} was [very |]sorry, and {whom} [forgave|hugged] {who.him}.",
        '"Please forgive me," said {who}. "[Of course|It is all right]," said {whom}.',
    ),
    "give_sorry": (
        "To make up for it, {who} gave {what} to {whom}.",
        '"[Please take this|This is for you]," said {who}, and gave {what} to {whom}.',
    ),
    # Traded
    "want": (
        "{who} [wanted|wished for|longed for] {what}, because {why}.",
        "[Now |]{who} could not stop looking at {what}. {who.He} wanted it because {why}.",
        "{fact}, so {then} wanted {what.short} very much.",
    ),
    "trade": (
        "So {who} gave {what} to {whom}, and {whom} gave {what2} to {who}.",
        '"Shall we trade?" asked {who}. So {who} took {what2} and {whom} took {what}.',
        "In the end they traded: {whom} got {what} and {who} got {what2}.",
    ),
    "give_need": (
        "{who} gave {what} to {whom}, because {why}.",
        "{fact}. So {who} gave {what} to {whom}.",
        '"This is for you," said {who} and gave {what} to {whom}. [It was because|{who.He} did '
        "it because] {why}.",
    ),
    "miss": (
        "But at [home|night], {who} missed {what}.",
        "But soon {who} began to miss {what}.",
    ),
    # Lent
    "lend": (
        "{who} lent {what} to {whom}, because {named}.",
        '"May I borrow {what.short}?" asked {whom}. [{whom.He} asked because|It was because] '
        "{named}. So {who} lent it to {whom.him}.",
        "{fact}. So {who} lent {what} to {whom}.",
    ),
    "lend_on": (
        "{who} lent {what} to {whom}, because {named}.",
        "{fact}. So {who} lent {what} to {whom}.",
        "{who} could not say no, and lent {what} to {whom}. It was because {named}.",
    ),
    "promise": (
        '"I will [take good care of it|be careful with it]," said {who}.',
        "{who} promised to [take good care of it|bring it back soon].",
        '"Thank you! You will have it back soon," said {who}.',
    ),
    "wait": (
        "{who} waited and waited for {what}.",
        "Days went by, and {who} heard nothing about {what}.",
        '"Where can {what.short} be?" thought {who}.',
    ),
    "return_late": (
        "[At last|One evening|After three days], {who} came and gave {what} back to {whom}.",
        "Then there was a knock at the door. It was {who}, who gave {what} back to {whom}.",
        '"I have not forgotten you," said {who}, and gave {what} back to {whom}.',
    ),
    "keep": (
        'But then {who} said to {whom}, "You may keep {what.short}." It was because {why}.',
        "In the end {who} let {whom} keep {what}, because {why}.",
        "{fact}, so {who} let {whom} keep {what}.",
    ),
    # Rescue
    "hear": (
        "[Suddenly|There], {who} heard [a small cry|a sad little sound].",
        '"[Listen|Hush]!" said {who}. "[Somebody is crying|I hear something]."',
    ),
    "stuck": (
        "It was {what.a}. It was stuck {trap}, because {why}.",
        "{what.a} was sitting {trap} and could not get away. [That was because|It was there "
        "because] {why}.",
        "There was {what.a} {trap}! [It had got there because|It was stuck because] {why}.",
    ),
    "reach": (
        "{who} tried to reach it, but could not, because {why}.",
        "{who} [tried hard|did {who.his} best], but {who.he} could not reach {what.short}, "
        "because {why}.",
    ),
    "fetch": (
        "So {who} ran {place.to} to get help.",
        '"I will get help," said {who}, and ran {place.to}.',
    ),
    "rescue": (
        "{who} [took|had] {tool} and saved {what} with it.",
        "With {tool}, {who} saved {what}.",
        '"[Do not be afraid|Keep still], little one," said {who}, and saved {what} with {tool}.',
    ),
    "give_pet": (
        "{who} gave {what} to {whom}, because it had no home.",
        '"It needs a home," said {who}, and gave {what} to {whom}.',
    ),
    "name": (
        "{who} [called it|named it] {pet}.",
        '"I will call you {pet}," said {who}.',
        "{who} thought for a while and gave it the name {pet}.",
    ),
    # Baking
    "bake_plan": (
        "[One day|One morning|On Saturday], {who} wanted to bake {food} for {whom}, because {why}.",
        "{fact}. So {who} [decided|made up {who.his} mind] to bake {food} for {whom.him}.",
        '"I will bake {food} for {whom}," said {who} [one day|one morning]. {who.He} wanted to '
        "do it because {why}.",
    ),
    "short": (
        "But there was no {missing} in the kitchen, because {why}.",
        "But {who} had no {missing}. [That was because|It was because] {why}.",
        "{fact}, and there was no more.",
    ),
    "meet": (
        "{who.He} went out and met {intro} {place.at}.",
        "{who} [walked|went] {place.to}, and there {who.he} met {intro}.",
    ),
    "provide": (
        '"[I have plenty|Take mine]," said {who}, and gave some {missing} to {whom}.',
        "{who} was glad to share and gave {whom} some {missing}.",
    ),
    "bake": (
        "[Back home|That afternoon|At once], {who} baked {food} and took it to {whom}.",
        "So {who} baked {food} after all, and {whom} [ate two pieces|ate every crumb|shared it "
        "with everybody].",
    ),
    "give_back": (
        "[In return|As a thank-you], {who} gave {what} to {whom}.",
        '"[Take this|You must have this]," said {who}, and gave {what} to {whom}.',
    ),
    # Errand
    "sender": (
        "Not far away lived {intro}, who had {what.a}.",
        "One day, {intro} came to the door with {what.a}.",
    ),
    "entrust": (
        "{who} gave {what} to {whom}.",
        "{who} put {what} into the hands of {whom}.",
    ),
    "errand": (
        '"Please take it {place.to}," said {who}, "to {intro}." It had to be done because {why}.',
        "It was for {intro}, who was waiting {place.at}. [It was needed because|The reason was "
        "that] {why}.",
        "{hero} was to bring it to {intro}, {place.at}, because {why}.",
    ),
    "set_out": (
        "{who} set out [at once|with a light heart|before noon].",
        '"I will [do it|be quick]," said {who}, and set out.',
    ),
    "barred": (
        "But [half way|on the way], {who} had to stop, because {why}.",
        "But {who} could not go on. [That was because|It was because] {why}.",
        "But {why}, and so {who} had to stop.",
    ),
    "guide": (
        '"I know another way," said {who}, and led {whom} past {place}.',
        "{who} [knew|showed {whom}] another way, past {place}.",
        "{who} took {whom} by the hand and led {whom.him} past {place}.",
    ),
    "deliver": (
        "[At last|Before dark|In the end], {who} came {place.to} and gave {what} to {whom}.",
        "So {who} got there after all, and gave {what} to {whom}.",
    ),
    # Storm
    "pastime": (
        "{who} and {whom} wanted to {pastime}.",
        '"Let us {pastime}," said {whom}.',
    ),
    "shelter": (
        "But {why}, so they ran {place.to}.",
        "They had to run {place.to}, because {why}.",
        "They had [hardly|only just] begun when they had to run {place.to}. It was because {why}.",
    ),
    "host": (
        "There {intro} [opened the door|let them in] and gave them {food}.",
        "There they met {intro}, who gave them {food}.",
    ),
    "has_dry": (
        "{who} also had {what.a}.",
        "{who} went to a cupboard and took out {what.a}.",
    ),
    "lend_dry": (
        "{who} lent {what} to {whom}, because {named}.",
        "{fact}. So {who} lent {what} to {whom}.",
        '"[You must take this|Warm yourself with this]," said {who}, and lent {what} to {whom}. '
        "It was because {named}.",
    ),
    "return_next": (
        "The next day, {who} gave {what} back to {whom}.",
        "A day later, {who} came and gave {what} back to {whom}.",
    ),
    "keep_dry": (
        '"You may keep {what.short}," said {who} to {whom}.',
        "Later, {who} told {whom} to keep {what}.",
    ),
    # Building
    "build_plan": (
        "[One day|One summer|In the holidays], {who} and {whom} began to build {building} "
        "{place.at}, because {why}.",
        "{who} and {whom} went {place.to} [one day|one morning] to build {building}. They did "
        "it because {why}.",
        '"Let us build {building} {place.at}," said {who} to {whom} [one day|one morning]. It '
        "was because {why}.",
    ),
    "collapse": (
        "[They worked all day|They worked hard|By noon it was almost ready], but then it fell "
        "down, because {why}.",
        "But {why}, and so it fell down [with a crash|again].",
    ),
    "supply": (
        "[Luckily|Then], {intro} came by and brought them {material}.",
        "{intro} had been watching, and gave them {material}.",
    ),
    "built": (
        "With that, {who} and {whom} built {building} [again|once more], and this time it "
        "stood firm.",
        "So {who} and {whom} began again, and by [evening|sunset] they had {building}.",
    ),
    "give_last": (
        "{who} gave {what} to {whom} [to say thank you|as a thank-you].",
        '"This is for you," said {who}, and gave {what} to {whom}.',
    ),
}
