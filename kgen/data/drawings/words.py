"""English phrases for drawings: articles, plurals, counts and positions of objects.

article("apple")           an apple
plural("wolf")             wolves
phrase("apple", "red", 3)  three red apples
"""

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
# Phrases for the objects A and B, by the position of A.
RELATIONS = {
    "left": ("{a} left of {b}", "{a} to the left of {b}", "{a} on the left and {b} on the right"),
    "right": ("{a} right of {b}", "{a} to the right of {b}", "{a} on the right, {b} on the left"),
    "above": ("{a} above {b}", "{a} over {b}", "{a} at the top and {b} at the bottom"),
    "below": ("{a} below {b}", "{a} under {b}", "{a} at the bottom and {b} at the top"),
}
BESIDE = ("{a} and {b}", "{a} beside {b}", "{a} next to {b}")

_CONSONANT_SOUND = ("uni", "use", "uku", "ute", "eur", "ewe", "one", "ufo", "u-turn")
_VOWEL_SOUND = ("hour", "honest", "heir", "x-ray", "8")
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "ox": "oxen",
    "die": "dice",
    "cactus": "cacti",
    "octopus": "octopuses",
    "leaf": "leaves",
    "loaf": "loaves",
    "knife": "knives",
    "wolf": "wolves",
    "calf": "calves",
    "elf": "elves",
    "shelf": "shelves",
    "bookshelf": "bookshelves",
    "scarf": "scarves",
    "wife": "wives",
    "half": "halves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "volcano": "volcanoes",
    "mango": "mangoes",
    "mosquito": "mosquitoes",
    "hero": "heroes",
    "superhero": "superheroes",
    "torpedo": "torpedoes",
    "fish": "fish",
    "sheep": "sheep",
    "deer": "deer",
    "moose": "moose",
    "bison": "bison",
    "squid": "squid",
    "shrimp": "shrimp",
    "aircraft": "aircraft",
    "spacecraft": "spacecraft",
}


def article(noun: str) -> str:
    """Returns a singular noun with its indefinite article.

    Example:
    >>> article("apple"), article("unicorn"), article("hourglass")
    ('an apple', 'a unicorn', 'an hourglass')
    """
    vowel = noun.startswith(("a", "e", "i", "o", "u")) and not noun.startswith(_CONSONANT_SOUND)
    return f"{'an' if vowel or noun.startswith(_VOWEL_SOUND) else 'a'} {noun}"


def plural(noun: str) -> str:
    """Returns the plural of a noun of one or more words; the last word is the one that changes.

    Example:
    >>> plural("fire engine"), plural("butterfly"), plural("box"), plural("snowman")
    ('fire engines', 'butterflies', 'boxes', 'snowmen')
    """
    before, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("man") and last not in ("human", "talisman", "caiman", "german"):
        last = last[:-3] + "men"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    else:
        last += "s"
    return before + space + last


def phrase(noun: str, colour: str = "", count: int | None = None) -> str:
    """Returns the phrase for a number of objects of a colour.

    Args:
        noun: a noun in the singular.
        colour: the word for the colour, or `""`.
        count: number of objects, 1 to 4; None for one with the indefinite article.

    Raises:
        ValueError: if `count` has another value.

    Example:
    >>> phrase("apple", "red"), phrase("apple", "green", 2)
    ('a red apple', 'two green apples')
    """
    if count not in (None, *NUMBERS):
        raise ValueError(f"`count` must be None or 1 to {max(NUMBERS)}. Received: count={count}.")
    coloured = f"{colour} {noun}".strip()
    if count is None:
        return article(coloured)
    return f"{NUMBERS[count]} {coloured if count == 1 else plural(coloured)}"
