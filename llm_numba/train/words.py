"""Who and what the stories are about: people, things, animals and places."""

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
ANIMALS = ("kitten", "puppy", "duckling", "lamb", "rabbit", "squirrel", "piglet", "hedgehog")
# fmt: on
