"""Which files of a folder are pictures, texts and tables, and what there is that cannot be used.

Names are paths below the folder, with "/" between parts. A Mac writes an accent as a character of
its own (NFD) where a table has one letter with it (NFC), so names are compared in NFC. What is
hidden, or begins with "__", does not count.

Links to files and folders inside the folder are followed; what leads out of it only where that is
allowed. A folder that links to one that holds it would have no end, and is left out.
"""

import dataclasses
import os
import posixpath
import unicodedata

from kgen.checks import check_path

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
UNREAD = (
    ".heic",
    ".heif",
    ".hif",
    ".jxl",
    ".svg",
    ".psd",
    ".jp2",
    ".j2k",
    ".tga",
    ".exr",
    ".hdr",
) + (
    ".ico",
    ".ppm",
    ".pgm",
    ".pnm",
    ".qoi",
    ".dng",
    ".nef",
    ".cr2",
    ".cr3",
    ".arw",
    ".raf",
)  # of pictures that are not read
TABLES = ("captions.csv", "metadata.csv")
JSON_TABLES = ("metadata.jsonl",)
MAX_LINKS = 1000  # folders that are linked


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Where a picture is: a file, or bytes of one.

    Attributes:
        name: what it is called below the folder, with "/" between parts.
        path: the file.
        offset: first byte.
        size: number of bytes, or None for the whole file.
    """

    name: str
    path: str
    offset: int = 0
    size: int | None = None

    @property
    def place(self) -> str:
        """The file, and which part of it, for messages."""
        return self.path if self.size is None else f"{self.path} ({self.name})"


@dataclasses.dataclass
class Found:
    """What a folder holds: names of its files, by kind, and what is wrong with others."""

    root: str
    pictures: list
    texts: list
    tables: list
    shards: list
    unread: list
    problems: list

    def path(self, name: str) -> str:
        """The path of a name, for messages and for reading."""
        return os.path.join(self.root, *name.split("/"))


def suffixes() -> tuple:
    """The endings of pictures that are read here: AVIF only where Pillow can."""
    from PIL import features

    return (*SUFFIXES, ".avif") if features.check("avif") else SUFFIXES


def find(directory, follow_links: bool = False) -> Found:
    """Finds the files of a folder and of those below it.

    Args:
        directory: the folder.
        follow_links: whether links may lead out of it.

    Returns:
        A `Found`, whose names are sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a picture, text or table is a link that leads out of it.
    """
    path = check_path("directory", directory)
    if not path.is_dir():
        raise FileNotFoundError(f"`directory` must be a folder of pictures. Received: {directory}.")
    found = Found(str(path), [], [], [], [], [], [])
    known = suffixes()
    base, linked = os.path.realpath(path), 0
    waiting = [("", (base,))]
    while waiting:
        above, chain = waiting.pop()
        with os.scandir(found.path(above) if above else path) as listing:
            entries = list(listing)
        for entry in entries:
            if entry.name.startswith((".", "__")):
                continue
            name = f"{above}/{entry.name}" if above else entry.name
            kind = _kind(found, entry.name, known)
            real = os.path.join(chain[-1], entry.name)
            if entry.is_symlink():
                real = os.path.realpath(entry.path)
                if not os.path.exists(real):
                    if kind is not None:
                        found.problems.append(f"{entry.path} is a link to nothing")
                    continue
                outside = os.path.commonpath([base, real]) != base
                if outside and not follow_links and (kind is not None or os.path.isdir(real)):
                    message = f"{entry.path} is a link that leads out of `directory`"
                    if os.path.isdir(real):
                        found.problems.append(f"{message}; `follow_links=True` allows that")
                        continue
                    raise ValueError(f"{message}; `follow_links=True` allows that.")
            if os.path.isdir(real):
                if entry.is_symlink():
                    if any(os.path.commonpath([real, other]) == real for other in chain):
                        found.problems.append(f"{entry.path} is a link to a folder that holds it")
                        continue
                    linked += 1
                    if linked > MAX_LINKS:
                        raise ValueError(
                            f"`directory` must hold at most {MAX_LINKS} linked folders. "
                            f"Received: {directory}."
                        )
                waiting.append((name, (*chain, real)))
            elif kind is not None and (kind is not found.unread or os.path.isfile(real)):
                kind.append(name)
    for names in (found.pictures, found.texts, found.tables, found.shards, found.unread):
        names.sort(key=lambda name: name.split("/"))
    return found


def unread_message(found: Found) -> str:
    """What is said of pictures in formats that are not read; empty if there are none."""
    if not found.unread:
        return ""
    kinds = sorted({os.path.splitext(name)[1].lower() for name in found.unread})
    example = found.path(found.unread[0])
    return (
        f"{len(found.unread)} pictures are of formats that are not read ({', '.join(kinds)}), such "
        f"as {example}: convert them to PNG or JPEG first, for example by "
        f"`magick mogrify -format png *{kinds[0]}`"
    )


class Names:
    """Looks up names as tables and texts spell them.

    Args:
        names: those that there are.
    """

    def __init__(self, names):
        self._exact = set(names)
        self._composed = {unicodedata.normalize("NFC", name): name for name in names}

    def find(self, name: str):
        """The name that is meant, or None."""
        for spelled in (name, name.replace("\\", "/")):
            spelled = posixpath.normpath(spelled)
            if spelled in self._exact:
                return spelled
            found = self._composed.get(unicodedata.normalize("NFC", spelled))
            if found is not None:
                return found
        return None


def _kind(found, name, known):
    """The list that a file of such a name belongs to, or None."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in known:
        return found.pictures
    if suffix == ".txt":
        return found.texts
    if name in TABLES or name in JSON_TABLES:
        return found.tables
    if suffix in (".tar", ".tfrecord", ".tfrecords") or ".tfrecord-" in name.lower():
        return found.shards
    if name.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
        return found.shards
    return found.unread if suffix in (*UNREAD, ".avif") else None
