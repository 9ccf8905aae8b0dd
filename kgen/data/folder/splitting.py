"""A reproducible split of the pictures of a folder into training and validation, without copies.

The part of a picture depends on its name without the suffix only, so that it does not change when
other pictures are added or removed. Files of one name (heart.png, heart.jpg) and files of the same
bytes are one picture: all of them are in the training part if any of them is, so that adding a copy
never removes a picture from the training part.
"""

import hashlib
import os
import unicodedata
from collections.abc import Sequence

from kgen.data.folder.finding import Entry


def parts(entries: Sequence[Entry], names: Sequence[str], validation: float) -> list:
    """Returns the part of each picture, "train" or "validation".

    Args:
        entries: `kgen.data.folder.finding.Entry` objects.
        names: the names of the pictures.
        validation: approximate fraction of the validation part.
    """
    groups, of = {}, []
    contents = _contents(entries)
    for name, content in zip(names, contents):
        keys = ["name " + _stem(name), *([content] if content else [])]
        roots = {_root(groups, key) for key in keys}
        first = min(roots)
        for root in roots:
            groups[root] = first
        of.append(first)
    training = {
        _root(groups, key) for name, key in zip(names, of) if part_of(name, validation) == "train"
    }
    return ["train" if _root(groups, key) in training else "validation" for key in of]


def part_of(name: str, validation: float) -> str:
    """Returns the part of a name by itself, "train" or "validation".

    Example:
        >>> part_of("a/heart.png", 0.5) == part_of("a/heart.jpg", 0.5)
        True
    """
    digest = hashlib.sha256(_stem(name).encode("utf-8", "surrogateescape")).digest()
    return "validation" if int.from_bytes(digest[:7]) < validation * 2**56 else "train"


def _stem(name: str) -> str:
    return os.path.splitext(unicodedata.normalize("NFC", name))[0]


def _root(groups: dict[str, str], key: str) -> str:
    """Returns the representative of the group of a key."""
    while groups.setdefault(key, key) != key:
        key = groups[key]
    return key


def _contents(entries: Sequence[Entry]) -> list[str | None]:
    """Returns the sha256 of each file that has the size of another one, and None for others."""
    sizes = [os.path.getsize(e.path) if e.size is None else e.size for e in entries]
    seen, several = set(), set()
    for size in sizes:
        (several if size in seen else seen).add(size)
    return [
        _sha256(entry, size) if size in several else None for entry, size in zip(entries, sizes)
    ]


def _sha256(entry: Entry, size: int) -> str:
    with open(entry.path, "rb") as file:
        file.seek(entry.offset)
        return "bytes " + hashlib.sha256(file.read(size)).hexdigest()
