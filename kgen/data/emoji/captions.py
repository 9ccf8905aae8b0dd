"""Captions and tags of the emoji data set, and the split by their normalised key.

A label of emojibase becomes a caption in plain words, in lower-case ASCII:

    "flag: Curaçao"         ->  "flag of curacao"
    "keycap: 5"             ->  "keycap 5"
    "man: red hair"         ->  "man with red hair"
    "Japanese “open” button" -> "japanese open button"

Different spellings of one concept have the same *key*, which alone determines the split, so that no
concept is in the training split in one style and in the test split in another.

This module does not import TensorFlow.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

TEST_FRACTION = 0.1

_SPELLINGS = {"grey": "gray", "colour": "color", "coloured": "colored", "aeroplane": "airplane"}
_JOINING_WORDS = {"of", "for", "with", "and", "the"}
_APOSTROPHES, _DROPPED, _EN_DASH = "\u2018\u2019", "\u201c\u201d()", "\u2013"
_TYPOGRAPHY = str.maketrans(_APOSTROPHES + _EN_DASH, "''-", _DROPPED)


def ascii_words(text: str) -> str:
    """Returns `text` in lower-case ASCII: accents and typographic quotes are dropped."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_TYPOGRAPHY).replace("&", "and"))
    return " ".join(decomposed.encode("ascii", "ignore").decode("ascii").lower().split())


def caption_of_label(label: str) -> str:
    """Returns the caption, in plain words, of an emojibase label.

    Args:
        label: a string such as `"flag: Bulgaria"`.

    Returns:
        A string in lower-case ASCII.

    Example:
    >>> caption_of_label("flag: Curaçao")
    'flag of curacao'
    >>> caption_of_label("family: man, woman, boy")
    'family of man, woman and boy'
    """
    subject, colon, detail = (part.strip() for part in ascii_words(label).partition(":"))
    if not colon:
        return subject
    if subject == "keycap":
        return f"keycap {dict(zip('#*', ['number sign', 'asterisk'])).get(detail, detail)}"
    if subject == "flag":
        return f"flag of {detail.replace(' - ', ' ')}"
    if detail == "bald":
        return f"bald {subject}"
    if "hair" in detail or detail == "beard":
        return f"{subject} with {detail}"
    detail = " and ".join(detail.rsplit(", ", 1))
    return f"{subject} of {detail}" if subject in ("family", "kiss") else f"{subject} {detail}"


def normalise(caption: str) -> str:
    """Returns the key of a caption, which is the same for different spellings of one concept.

    It ignores case, accents, punctuation, joining words (of, for, with, and, the), a trailing
    "facing right" and the difference of British and American spelling.

    Args:
        caption: a string.

    Returns:
        A string of `[a-z0-9]` words separated by single spaces.

    Raises:
        TypeError: if `caption` is not a string.

    Example:
    >>> normalise("Flag: Antigua & Barbuda") == normalise("flag for antigua and barbuda")
    True
    """
    if not isinstance(caption, str):
        raise TypeError(f"`caption` must be a string. Received: caption={caption!r}.")
    text = ascii_words(caption).replace("'", "")
    words = [_SPELLINGS.get(word, word) for word in re.findall(r"[a-z0-9]+", text)]
    kept = [word for word in words if word not in _JOINING_WORDS] or words
    if len(kept) > 2 and kept[-2:] == ["facing", "right"]:
        kept = kept[:-2]
    return " ".join(kept)


def digest(caption: str) -> str:
    """Returns the sha256 hex digest of the normalised caption."""
    return hashlib.sha256(normalise(caption).encode("ascii")).hexdigest()


def split_of(caption: str) -> Literal["train", "test"]:
    """Returns the split of a caption: `"test"` for about one key in ten, else `"train"`.

    Example:
    >>> split_of("red heart") == split_of("Red Heart")
    True
    """
    return "test" if int(digest(caption)[:8], 16) < TEST_FRACTION * 2**32 else "train"


def clean_tags(tags: Iterable[str], caption: str) -> list[str]:
    """Returns the tags, in lower-case ASCII, that have a word which is not in the caption."""
    known = set(re.findall(r"[a-z0-9]+", caption))
    cleaned = {}
    for tag in map(ascii_words, tags):
        words = set(re.findall(r"[a-z0-9]+", tag))
        if re.fullmatch(r"[a-z][a-z0-9' -]+", tag) and not words <= known:
            cleaned[tag] = None
    return list(cleaned)
