"""Captions from titles, file names, keywords, folders and names of icons.

A caption is kept only if WordNet has all of its words, and it names a visible object: an animal,
artifact, body part, food, natural object, person, phenomenon or plant.

    openclipart   a translated word of its file name, else title, else file name, else the kind of
                  its folder ("animals/birds" -> "bird")
    icon          its name without numbers and suffixes ("bicycle-bike-flat" -> "bicycle")
"""

import re

from kgen.data.emoji.captions import ascii_words, clean_tags
from tools.drawings.english import CORRECTED, ENGLISH
from tools.drawings.lists import (
    CATEGORIES,
    HEADS,
    ICON_ENDINGS,
    INTERFACE,
    LAST_COLOURS,
    NOT_SEEN,
    SEEN_TOO,
)

GROUP_OF_KIND = {
    "animal": "animals-nature",
    "plant": "animals-nature",
    "phenomenon": "animals-nature",
    "food": "food-drink",
    "person": "people-body",
    "body": "people-body",
    "object": "travel-places",
    "artifact": "objects",
    "shape": "symbols",
}
# Folders of openclipart that are read, the kind that their drawings surely are, and their group.
FOLDERS = {
    "animals/birds": ("bird", "animals-nature"),
    "animals/bugs": ("insect", "animals-nature"),
    "animals/dinosaurs": ("dinosaur", "animals-nature"),
    "animals/fish": ("fish", "animals-nature"),
    "animals/mammals/bears": ("bear", "animals-nature"),
    "animals/mammals/dogs": ("dog", "animals-nature"),
    "animals/mammals/horses": ("horse", "animals-nature"),
    "animals/mammals/housecats": ("cat", "animals-nature"),
    "animals": ("", "animals-nature"),
    "buildings/homes": ("house", "travel-places"),
    "buildings": ("", "travel-places"),
    "computer/hardware": ("", "objects"),
    "containers": ("", "objects"),
    "decorations": ("", "objects"),
    "education/books": ("", "objects"),
    "education": ("", "objects"),
    "electronics/bulb": ("light bulb", "objects"),
    "electronics": ("", "objects"),
    "food/desserts": ("", "food-drink"),
    "food/fruit": ("fruit", "food-drink"),
    "food": ("", "food-drink"),
    "office": ("", "objects"),
    "people/smilies": ("smiley", "smileys-emotion"),
    "people/stickmen": ("stick figure", "people-body"),
    "people/clothing/hats": ("hat", "objects"),
    "people/clothing": ("", "objects"),
    "people": ("", "people-body"),
    "plants/flowers": ("flower", "animals-nature"),
    "plants/trees": ("tree", "animals-nature"),
    "plants": ("plant", "animals-nature"),
    "recreation": ("", "activities"),
    "science": ("", "objects"),
    "signs_and_symbols/clocks": ("clock", "objects"),
    "signs_and_symbols/weather": ("", "animals-nature"),
    "tools": ("", "objects"),
    "transportation": ("", "travel-places"),
    "unsorted": ("", "objects"),
}
LEFT_OUT_FOLDERS = (
    "recreation/games/cards",
    "recreation/religion",
    "transportation/aiga-symbols",
    "transportation/roadsigns",
    "people/clothing/pantyhose",
    "unsorted/duplicates",
)
# Titles of whole collections.
_COLLECTIVE = re.compile(
    r"clip ?-?art|collection|submission|sibmission|svg |symbol|architetto|example|homes|untitled"
    r"|nicu|part of|logo|number|creation|various|portrait|^people$|^ppl|^new|r\d+ |capsize|heeling"
    r"|border|frame|page|theme|set of|icons?\b|pattern|silhouette|map\b|hash|gratuit|wallpaper"
)
_NOISE = re.compile(
    r"\(.*?\)|\b(?:b and w|bw|svg|png|jpg|v?\d+[a-z]?|[ivx]+|icon"
    r"|simple|simplified|cartoon|colou?r|outline|stylized|styl|dan|ganson|contour|version|alt|art"
    r"|image|picture|drawing|illustration|vector|small|large|big|tiny|nice|lumen|design|tux)\b"
)
_JOINERS = {"of", "with", "and", "in", "on", "the", "a", "an", "at", "to", "for", "'s", "from"}
_ADJECTIVES_ONLY = {"black", "white", "open", "closed", "old", "new"}
# Collections of signs and diagrams, pictures of paintings and of single persons.
_LEFT_OUT_TITLES = re.compile(
    r"road sign|boating rules|sailing|van gogh|martin luther|beckham|^icons?$|schema|diagram|tribal"
    r"|mercator|flourish|presentation|dot|zig"
)


def caption_of_icon(name, wordnet):
    """Returns the caption of an icon, or None if its name is not that of a visible object.

    Args:
        name: a name such as `"chef-toque-hat-flat"`.
        wordnet: a `WordNet`.
    """
    words = [word for word in re.split(r"[-_ ]+", ascii_words(name)) if word]
    while words and (words[-1].isdigit() or words[-1] in ICON_ENDINGS):
        words.pop()
    words = [word for word in words if not word.isdigit()]
    if not 1 <= len(words) <= 3 or INTERFACE & set(words):
        return None
    return corrected(_seen_thing(words, wordnet))


def _seen_thing(words, wordnet):
    whole = " ".join(words)
    if wordnet.kinds(whole, 1) and wordnet.base(whole) not in NOT_SEEN:
        return whole
    if len(words) == 1:
        return None
    if words[0] in CATEGORIES:
        return _seen_thing(words[1:], wordnet)
    # "bicycle bike" says the same twice.
    if set(wordnet.senses(words[-1], 3)) & set(wordnet.senses(words[-2], 3)):
        return _seen_thing(words[:-1], wordnet)
    first, last = wordnet.kinds(words[0], 2), wordnet.kinds(words[-1], 1)
    persons = "person" in first and last == ["person"]
    if len(words) == 2 and first and (persons or wordnet.base(words[1]) in HEADS):
        return whole
    return None


def corrected(caption):
    """Returns a caption, corrected if it is in `CORRECTED`."""
    return CORRECTED.get(caption, caption)


def caption_of_clipart(title, stem, keywords, folder, wordnet):
    """Returns the caption of a drawing of openclipart, or None if nothing names its object.

    Args:
        title: its title.
        stem: its file name without the suffix.
        keywords: sequence of its keywords.
        folder: its folder, e.g. `"animals/birds"`.
        wordnet: a `WordNet`.
    """
    title = ascii_words(title.replace("_", " ").replace("#", " "))
    if _LEFT_OUT_TITLES.search(title):
        return None
    for word in re.findall(r"[a-z]+", ascii_words(stem))[:2]:
        if word in ENGLISH:
            return ENGLISH[word]
    candidates = [] if _COLLECTIVE.search(title) or "|" in title else [title]
    candidates += _without_author(stem, wordnet)
    for candidate in candidates:
        caption = _named_thing(candidate, wordnet)
        if caption:
            return corrected(caption)
    kind, _ = place_of(folder)
    if kind:
        return corrected(kind)
    named = [keyword for keyword in map(ascii_words, keywords) if keyword in ascii_words(stem)]
    named = [word for word in named if len(word) > 2 and _named_thing(word, wordnet) == word]
    return named[0] if named else None


def _without_author(stem, wordnet):
    """Returns a file name such as "horse_1_rotkevich_konsat_01" without author and number."""
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    words = re.split(r"[-_ .]+", ascii_words(stem))
    signed = words[-1].isdigit() or words[-1] in ("r", "")
    words = [word for word in words if word and not word.isdigit()]
    if words and words[-1] == "r":
        words.pop()
    lengths = [len(words) - 2] if signed else []
    lengths.append(len(words))
    # A word that is not English is no part of the title.
    lengths += [n for n in range(len(words) - 1, 0, -1) if not wordnet.is_known(words[n])]
    return [" ".join(words[:length]) for length in lengths if length > 0]


def _named_thing(text, wordnet):
    """Returns a text without noise words if it is English and names an object, else None."""
    text = re.sub(r"([a-z])\d+\b", r"\1", text)
    text = re.sub(r"[^a-z' ]+", " ", _NOISE.sub(" ", text))
    words = text.replace("'s", " 's").split()
    while words and words[0] in ("the", "a", "an"):
        words = words[1:]
    while words and words[-1] in _JOINERS:
        words = words[:-1]
    if not 1 <= len(words) <= 5 or not all(
        (len(word) > 2 and wordnet.is_known(word)) or word in _JOINERS for word in words
    ):
        return None
    if len(words) > 1 and words[-1] in LAST_COLOURS and not _JOINERS & set(words):
        words = [words[-1], *words[:-1]]
    caption = " ".join(words).replace(" 's", "'s")
    head = head_of(words)
    whole = " ".join(words)
    for phrase in (whole, " ".join(head), " ".join(head[-2:]), head[-1]):
        if phrase and (wordnet.kinds(phrase, 2) or wordnet.base(phrase) in SEEN_TOO):
            return None if wordnet.base(phrase) in NOT_SEEN else caption
    return None


def head_of(words):
    """Returns the words before the first joining word: "cup" of "cup with straw"."""
    for place, word in enumerate(words):
        if place and word in _JOINERS - {"'s"}:
            return words[:place]
    return words


def place_of(folder):
    """Returns the most specific `(kind, group)` of a folder of openclipart."""
    while folder not in FOLDERS and "/" in folder:
        folder = folder.rpartition("/")[0]
    return FOLDERS.get(folder, ("", "objects"))


def is_read(folder):
    """Returns whether the drawings of a folder of openclipart are in the data set."""
    if folder.startswith(LEFT_OUT_FOLDERS):
        return False
    return any(folder == known or folder.startswith(known + "/") for known in FOLDERS)


def tags_of(keywords, caption, wordnet):
    """Returns the keywords that are English nouns and not in the caption."""
    vague = {
        "icon",
        "tools",
        "work",
        "hash",
        "unsorted",
        "symbol",
        "shape",
        "menu",
        "image",
        "clip",
    }
    kept = [word for word in map(ascii_words, keywords) if word not in vague]
    return clean_tags([word for word in kept if word in wordnet.meanings], caption)[:6]
