"""Selection of captions that are countable nouns, whose pictures can be composed to scenes."""

import re

from tools.drawings.lists import word_set

_MASS = word_set("""
    air bacon baggage barbecue beef beer bread breakfast broccoli butter cheese chess cloth clothing
    coffee corn dough electricity equipment fire flour fog food furniture garlic ginger gold grass
    hail hair haze honey ice jewelry juice lightning liquor lotion luggage lunch makeup mascara meat
    milk mist money music oil paint paper pasta pollen popcorn pork poultry rain rice sake salt sand
    seafood silver smoke snow soap soup spaghetti sugar sushi tea traffic water weather wheat wind
    wine wood wool yarn photography sunrise sunset dusk night morning evening laundry celery pottery
    custard bamboo fur fudge caviar toast chocolate moss ivy mistletoe jam jelly gravel debris
    beans anger love tofu hockey football soccer golf tennis
    """)
_GROUPS = {
    "smileys-emotion",
    "people-body",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
}
_VERBAL = re.compile(r"^(face|person|man|woman|people|men|women) \w+ing\b")


def noun_of(caption, group, wordnet):
    """Returns a caption if it is a singular countable noun of at most three words.

    Args:
        caption: a caption.
        group: its group; flags and symbols are left out.
        wordnet: a `WordNet`.

    Returns:
        The caption, or `""`.
    """
    words = caption.split()
    if group not in _GROUPS or not 1 <= len(words) <= 3 or not re.fullmatch(r"[a-z ]+", caption):
        return ""
    if _VERBAL.match(caption) or {"of", "with", "and", "in", "on", "at", "no"} & set(words):
        return ""
    last = words[-1]
    if last in _MASS or wordnet.base(last) != last or (last.endswith("ss") and last != "glass"):
        return ""
    # Things that come in pairs are in the plural: "scissors", "trousers".
    if last.endswith("s") and not last.endswith(("ss", "us", "is")) and last not in ("lens", "gas"):
        return ""
    return caption if wordnet.kinds(caption, 1) or wordnet.kinds(last, 2) else ""
