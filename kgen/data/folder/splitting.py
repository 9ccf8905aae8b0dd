"""Which pictures of a folder are held out for validation: the same ones every time, and no copies.

The part of a picture follows from its name alone, without the ending, so it stays where it is when
others come or go. Files of one name (heart.png, heart.jpg) and files of the same bytes are one
picture, whatever their names: they are for training if any of them is, so that a copy that is
added later never takes a picture out of the training part.
"""

import hashlib
import os
import unicodedata


def parts(entries, names, validation: float) -> list:
    """Returns the part of each picture, "train" or "validation".

    Args:
        entries: `kgen.data.folder.finding.Entry` objects.
        names: what each of them is called.
        validation: about the fraction of the second part.
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
    """Which part a name belongs to by itself, "train" or "validation".

    Example:
        >>> part_of("a/heart.png", 0.5) == part_of("a/heart.jpg", 0.5)
        True
    """
    digest = hashlib.sha256(_stem(name).encode("utf-8", "surrogateescape")).digest()
    return "validation" if int.from_bytes(digest[:7]) < validation * 2**56 else "train"


def _stem(name):
    return os.path.splitext(unicodedata.normalize("NFC", name))[0]


def _root(groups, key):
    """The key that stands for the group of a key."""
    while groups.setdefault(key, key) != key:
        key = groups[key]
    return key


def _contents(entries):
    """The sha256 of each file that has the size of another one; None of the others."""
    sizes = [os.path.getsize(e.path) if e.size is None else e.size for e in entries]
    seen, several = set(), set()
    for size in sizes:
        (several if size in seen else seen).add(size)
    return [
        _sha256(entry, size) if size in several else None for entry, size in zip(entries, sizes)
    ]


def _sha256(entry, size):
    with open(entry.path, "rb") as file:
        file.seek(entry.offset)
        return "bytes " + hashlib.sha256(file.read(size)).hexdigest()
