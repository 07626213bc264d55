"""What happens in the stories, and why: causes, troubles, remedies and feelings.

A cause is a clause with slots. ``{he}``, ``{his}`` and ``{it}`` are filled with pronouns where the
clause follows its subject ("because he dropped it") and with names where it leads ("Tom dropped
the red cup, so ..."). See :func:`llm_numba.train.grammar.clause`.
"""

# fmt: off
LOSS_CAUSES = {
    "any": (
        "{he} put {it} down and forgot about it",
        "{he} ran too fast and dropped {it}",
        "a dog ran off with {it}",
        "{he} was chasing a butterfly and let go of {it}",
        "a goat pulled {it} away",
        "{he} was looking at the clouds and not at {it}",
        "somebody took {it} by mistake",
    ),
    "light": ("the wind blew {it} away", "a gust of wind caught {it}"),
    "paper": ("the wind blew {it} away", "{it} fell out of {his} bag"),
    "cloth": ("the wind blew {it} away", "{he} felt warm and took {it} off"),
    "soft": ("{he} left {it} on a wall", "{it} fell out of {his} arms"),
    "round": ("{it} rolled away down the slope", "{he} threw {it} too far"),
    "small": (
        "there was a hole in {his} pocket",
        "a crow flew off with {it}",
        "{it} slipped through {his} fingers",
    ),
    "hard": ("{it} fell off a wagon", "{it} was hidden by the falling leaves"),
}
BREAK_CAUSES = (
    "{he} dropped {it} on a stone",
    "{he} sat on {it} by mistake",
    "{he} pulled {it} too hard",
    "a goat stepped on {it}",
    "a branch fell on {it}",
    "a cart wheel rolled over {it}",
    "{it} was caught on a nail",
    "a puppy chewed {it}",
    "{he} fell over a root and landed on {it}",
    "a cow kicked {it}",
)
HIDE_CAUSES = (
    "{he} wanted to play a trick",
    "{he} was cross with {whom}",
    "{he} wanted to keep {it} safe from the rain",
    "{he} was jealous of {whom}",
    "{he} was planning a treasure hunt",
    "{he} wanted to make {whom} laugh",
    "{he} was afraid that a goat would eat {it}",
    "{he} wanted {whom} to stay longer",
)
BORROW_CAUSES = (
    "{he} wanted to show {it} to {who.his} grandmother",
    "{he} needed {it} for the village fair",
    "{he} wanted to paint a picture of {it}",
    "{he} was going on a long journey",
    "{he} had a cold and needed cheering up",
    "{he} had never had such a thing",
    "{he} wanted to make one just like {it}",
    "{he} had to act in a play",
)
WANT_CAUSES = (
    "{it} shone in the sun",
    "{his} little sister would love {it}",
    "{he} had dreamed of {it} all winter",
    "{it} reminded {whim} of {who.his} grandfather",
    "{it} was the finest one in the village",
    "{he} needed a birthday present",
    "{he} was tired of {who.his} own toys",
    "{it} was easy to carry",
)
GIFT_CAUSES = (
    "it was {whom}'s birthday",
    "{whom} had nothing to play with",
    "{whom} was feeling lonely",
    "{whom} had won a race",
    "{whom} had been ill",
    "{whom} was going away",
    "{whom} had just moved house",
    "{whom} had learned to swim",
)
CARE_CAUSES = (
    "it was {whom}'s birthday",
    "{whom} had been ill",
    "{whom} had hurt {whom.his} foot",
    "{whom} was feeling lonely",
    "{whom} had just moved house",
    "{whom} had worked very hard",
    "{whom} had lost a tooth",
    "{whom} had come home from a journey",
)
ERRAND_CAUSES = (
    "{whom} had left {it} behind",
    "{whom} needed {it} before dark",
    "{whom} had asked for {it} in a letter",
    "it was {whom}'s birthday",
    "{it} belonged to {whom}'s mother",
    "{whom} wanted to show {it} to a friend",
)
OBSTACLES = (
    "the bridge had fallen down",
    "the road was full of sheep",
    "the path was under water",
    "a big goose would not move",
    "a thick fog had come down",
    "the gate was locked",
    "a tree had fallen across the path",
    "the snow was too deep",
)
COLD_CAUSES = (
    "{he} was cold",
    "{his} clothes were wet",
    "{his} hands were shaking",
    "{he} had begun to sneeze",
)
STORMS = (
    "it began to rain",
    "a storm came over the hills",
    "snow began to fall",
    "the thunder was loud",
    "hail came down from the sky",
    "the wind grew too strong",
)
PASTIMES = (
    "have a picnic", "pick berries", "catch fish", "climb trees", "look for shells",
    "paint pictures", "gather mushrooms", "learn to whistle",
)
WARMERS = (
    "a bowl of hot soup",
    "a cup of warm milk",
    "some fresh bread",
    "a pot of sweet tea",
    "some pancakes",
    "some roasted chestnuts",
    "a glass of apple juice",
    "some toast with jam",
)
PET_NAMES = (
    "Biscuit", "Pepper", "Clover", "Pickle", "Muffin", "Daisy", "Ginger", "Patch", "Smudge",
    "Nutmeg", "Bramble", "Mango",
)
TRAPS = (
    "at the bottom of a dry well",
    "on the roof of a barn",
    "high up in an oak tree",
    "on a stone in the middle of the water",
    "in a deep ditch",
    "on a narrow ledge",
    "in the middle of the thorn bushes",
    "on top of a tall wall",
)
TRAP_CAUSES = (
    "it had chased a butterfly",
    "it had run away from a dog",
    "the thunder had frightened it",
    "it had wanted to see the world",
    "it had followed a bee",
    "it had been looking for food",
    "it had lost its mother",
    "it had been playing with a leaf",
)
CLIMB_TROUBLES = (
    "it was too far away",
    "the stones were too slippery",
    "the thorns were too sharp",
    "{who.his} arms were too short",
    "{who.his} legs began to shake",
    "it was getting dark",
)
RESCUE_TOOLS = (
    "a ladder", "a long rope", "a fishing net", "a plank", "a long pole", "a strong branch",
    "a wooden box", "a clothes line",
)
FOODS = (
    "an apple pie", "a honey cake", "a plum tart", "a loaf of bread", "a carrot cake",
    "a cherry pie", "a pot of soup", "a nut cake", "a lemon pudding", "an egg pie",
)
INGREDIENTS = ("flour", "butter", "sugar", "milk", "salt", "cream", "cinnamon", "oil")
SHORTAGES = (
    "the mice had eaten {it}",
    "{his} brother had used all of {it}",
    "{it} had fallen on the floor",
    "the shop had run out of {it}",
    "{he} had forgotten to buy {it}",
    "the cat had spoiled {it}",
)
BUILDINGS = (
    "a tree house", "a raft", "a bird house", "a swing", "a little bridge", "a hut",
    "a wooden tower", "a rabbit hutch",
)
BUILD_CAUSES = (
    "they wanted a place of their own",
    "they had nothing else to do",
    "they wanted to win a prize",
    "they had read about one in a story",
    "they wanted to surprise {helper}",
    "they liked to work with wood",
)
COLLAPSES = (
    "the wood was too thin",
    "the rope was too short",
    "the ground was too soft",
    "the wind was too strong",
    "the nails were too small",
    "they were in too much of a hurry",
)
MATERIALS = (
    "some strong planks",
    "a bag of nails",
    "a good saw",
    "a thick rope",
    "some old bricks",
    "a big hammer",
    "a tin of paint",
    "a box of screws",
)
CLOTH_TOOLS = ("a needle and thread", "some wool", "a small patch", "a few stitches", "a pin")
HARD_TOOLS = (
    "some glue", "a piece of string", "some wire", "a little hammer", "some tape", "a drop of wax",
)
JUNK = (
    "an old boot", "a sleeping cat", "a family of ants", "two snails", "a rusty spoon",
    "a heap of dry leaves", "a green frog", "a lost sock", "an empty bottle", "a busy spider",
    "a surprised mouse", "some feathers",
)

# Feelings, each with what it makes people do. Words that stand in the same places with the same
# company get the same embedding, and then no attention can tell which of them a story used:
# without these signs, six sad words collapsed into one (cosines of 0.99).
SAD = {
    "sad": "began to cry",
    "upset": "could not speak",
    "worried": "walked up and down",
    "unhappy": "sat down and sighed",
    "miserable": "hid {his} face",
    "gloomy": "looked at {his} feet",
}
GLAD = {
    "happy": "danced",
    "glad": "laughed out loud",
    "proud": "stood very straight",
    "pleased": "smiled all day",
    "thankful": "bowed three times",
    "cheerful": "jumped up and down",
}
# fmt: on
