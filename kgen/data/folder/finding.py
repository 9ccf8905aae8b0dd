"""Finding the pictures, texts and tables in a folder.

Names are paths relative to the folder, with "/" between parts. They are compared in the Unicode
normal form NFC, since macOS stores accents as characters of their own (NFD). Hidden files, and
names that begin with "__", are ignored.

Links to files and folders inside the folder are followed; links that lead out of it only if that is
allowed. A link to a folder that contains it is ignored, since it would never end.
"""

import dataclasses
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence

from kgen.checks import check_path
from kgen.types import Path

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
    """The place of a picture: a file, or a range of bytes in a file.

    Attributes:
        name: path relative to the folder, with "/" between parts.
        path: the file.
        offset: offset of the first byte.
        size: number of bytes, or None for the whole file.
    """

    name: str
    path: str
    offset: int = 0
    size: int | None = None

    @property
    def place(self) -> str:
        """Returns the file and the offset in it, for messages."""
        return self.path if self.size is None else f"{self.path} ({self.name})"


@dataclasses.dataclass
class Found:
    """The content of a folder: names of its files by kind, and problems with others."""

    root: str
    pictures: list
    texts: list
    tables: list
    shards: list
    unread: list
    problems: list

    def path(self, name: str) -> str:
        """Returns the path of a name."""
        return os.path.join(self.root, *name.split("/"))


def suffixes() -> tuple:
    """Returns the suffixes of supported pictures; AVIF only if Pillow supports it."""
    from PIL import features

    return (*SUFFIXES, ".avif") if features.check("avif") else SUFFIXES


def find(directory: Path, follow_links: bool = False) -> Found:
    """Finds the files in a folder and its subfolders.

    Args:
        directory: the folder.
        follow_links: whether links may lead out of it.

    Returns:
        A `Found`, whose names are sorted.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if a picture, text or table is a link that leads out of the folder.
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
                        found.problems.append(f"{entry.path} is a link to a missing file")
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
                        found.problems.append(
                            f"{entry.path} is a link to a folder that contains it"
                        )
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
    """Returns the warning about pictures in unsupported formats; empty if there are none."""
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
    """Looks up the names of files as tables and texts spell them.

    Args:
        names: the existing names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._composed = {unicodedata.normalize("NFC", name): name for name in names}

    def find(self, name: str) -> str | None:
        """Returns the existing name that matches, or None."""
        for spelled in (name, name.replace("\\", "/")):
            spelled = posixpath.normpath(spelled)
            if spelled in self._exact:
                return spelled
            found = self._composed.get(unicodedata.normalize("NFC", spelled))
            if found is not None:
                return found
        return None


def _kind(found: Found, name: str, known: Sequence[str]) -> list | None:
    """Returns the list of `found` that a file of this name belongs to, or None."""
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
