"""The words of the stories: people, things, places, troubles and remedies.

A cause is a clause with slots. ``{he}``, ``{his}`` and ``{it}`` are filled with pronouns where the
clause follows its subject ("because he dropped it") and with names where it leads ("Tom dropped
the red cup, so ..."). See :func:`llm_numba.train.grammar.clause`.
"""

from __future__ import annotations

from random import Random

from llm_numba.train.entities import Place

# fmt: off
GIRLS = (
    "Mia", "Lily", "Anna", "Rosa", "Ella", "Nora", "Ruby", "Ivy", "Emma", "Clara", "Alice", "Zoe",
    "Hana", "Lucy", "Maya", "Sara", "Tess", "Olga",
)
BOYS = (
    "Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Oscar", "Finn", "Hugo", "Noah", "Adam", "Peter",
    "Omar", "Luke", "Theo", "Ravi", "Jonas", "Felix",
)
_ONSETS = (
    "b", "ch", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "sh", "t", "v",
    "y", "z", "br", "dr", "kr", "pr", "tr",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ee", "ia", "oo")
_CODAS = ("", "", "", "l", "m", "n", "r", "s", "th")
WOMEN = ("Mrs Lane", "Mrs Finch", "Mrs Moss", "Mrs Parker", "Mrs Webb", "Mrs Cole")
MEN = ("Mr Reed", "Mr Stone", "Mr Carter", "Mr Nash", "Mr Dale", "Mr Frost")
TRADES = (
    "baker", "farmer", "miller", "teacher", "gardener", "carpenter", "tailor", "shepherd",
    "librarian", "doctor", "painter", "blacksmith",
)
KIN = ("grandmother", "grandfather", "uncle", "aunt", "big brother", "big sister")


def invent_name(rng: Random) -> str:
    """Return a name of two or three made-up syllables.

    Names that no list holds teach the model to copy any name it is given.
    """
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 1, 2)))]
    syllables.append(rng.choice(_ONSETS) + rng.choice("aeio") + rng.choice(_CODAS))
    return "".join(syllables).capitalize()


COLOURS = (
    "red", "blue", "green", "yellow", "orange", "purple", "white", "black", "brown", "pink",
    "silver", "golden", "grey",
)

# noun: (sort, what one does with it)
THINGS = {
    "ball": ("round", "bouncing"),
    "marble": ("round", "rolling"),
    "hoop": ("round", "rolling"),
    "kite": ("light", "flying"),
    "umbrella": ("light", "twirling"),
    "balloon": ("light", "chasing"),
    "flag": ("light", "waving"),
    "book": ("paper", "reading"),
    "map": ("paper", "reading"),
    "letter": ("paper", "reading"),
    "hat": ("cloth", "wearing"),
    "scarf": ("cloth", "wearing"),
    "coat": ("cloth", "wearing"),
    "apron": ("cloth", "wearing"),
    "blanket": ("cloth", "carrying"),
    "doll": ("soft", "hugging"),
    "whistle": ("small", "blowing"),
    "bell": ("small", "ringing"),
    "ring": ("small", "turning"),
    "key": ("small", "jingling"),
    "button": ("small", "polishing"),
    "drum": ("hard", "beating"),
    "flute": ("hard", "playing"),
    "horn": ("hard", "blowing"),
    "lantern": ("hard", "swinging"),
    "bucket": ("hard", "carrying"),
    "basket": ("hard", "carrying"),
    "cart": ("hard", "pulling"),
    "sledge": ("hard", "pulling"),
    "boat": ("hard", "carrying"),
    "train": ("hard", "pushing"),
    "clock": ("hard", "winding"),
    "cup": ("hard", "drinking from"),
    "mirror": ("hard", "polishing"),
}

INDOORS = frozenset({"school", "library", "mill", "station", "bakery", "castle"})
PLACES = tuple(
    Place(noun, preposition, tuple(spots.split(", ")), noun in INDOORS)
    for noun, preposition, spots in (
        (
            "park",
            "in",
            "under the bench, behind the fountain, beside the duck pond, in the long grass",
        ),
        (
            "garden",
            "in",
            "under the rose bush, behind the shed, between the bean rows, beside the water barrel",
        ),
        (
            "market",
            "at",
            "under the fruit stall, behind a barrel of apples, "
            "next to the cheese stall, under a pile of sacks",
        ),
        (
            "river",
            "by",
            "among the reeds, under the bridge, between two stones, behind the fishing hut",
        ),
        (
            "forest",
            "in",
            "inside a hollow log, under the ferns, behind a mossy stone, "
            "at the foot of an oak tree",
        ),
        (
            "beach",
            "on",
            "in a rock pool, behind a sand dune, under a heap of seaweed, between the beach huts",
        ),
        ("farm", "on", "in the hay, under the wagon, beside the hen house, behind the barn"),
        (
            "school",
            "at",
            "under a desk, behind the bookshelf, on the window sill, inside the cupboard",
        ),
        (
            "library",
            "in",
            "between two thick books, under the reading table, "
            "behind the globe, on the highest shelf",
        ),
        (
            "hill",
            "on",
            "behind a big rock, under the thorn bush, in a rabbit hole, next to the old wall",
        ),
        (
            "mill",
            "at",
            "behind the flour sacks, under the water wheel, beside the millstone, "
            "on the wooden stairs",
        ),
        (
            "station",
            "at",
            "under the ticket window, behind a trunk, at the end of the platform, "
            "inside the waiting room",
        ),
        (
            "harbour",
            "at",
            "inside a fishing net, under a rowing boat, behind the crates, beside the lamp post",
        ),
        (
            "orchard",
            "in",
            "under the pear tree, in a wheelbarrow, behind the beehives, beside the cider press",
        ),
        (
            "square",
            "in",
            "beside the well, behind the statue, under the stone steps, inside the clock tower",
        ),
        (
            "meadow",
            "in",
            "among the daisies, behind the haystack, beside the stream, under the willow tree",
        ),
        (
            "bakery",
            "at",
            "under the counter, behind the oven, inside the flour bin, beside the bread shelf",
        ),
        (
            "castle",
            "at",
            "on the spiral stairs, behind the broken wall, under the gate, inside the tower",
        ),
        (
            "lake",
            "by",
            "under the jetty, among the water lilies, behind the boat house, "
            "beside the picnic table",
        ),
        (
            "playground",
            "in",
            "under the slide, behind the swings, inside the sandpit, next to the seesaw",
        ),
    )
)

HOMES = (
    "at the edge of the village",
    "in a small house by the sea",
    "in a cottage with a crooked chimney",
    "above the shoemaker's shop",
    "at the end of a long lane",
    "next to the town hall",
    "in a tall house with a round window",
    "beyond the blue hills",
    "near the old windmill",
    "on a quiet street",
)

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
ANIMALS = ("kitten", "puppy", "duckling", "lamb", "rabbit", "squirrel", "piglet", "hedgehog")
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
