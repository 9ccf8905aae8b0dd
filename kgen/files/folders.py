"""The folders that an untrusted file may refer to, checksums, and flushing files to disk.

A configuration may name a folder, such as that of a text encoder. The folder is opened only if it
lies in the folder of the file or beside it, under a plain name, or if the caller names another
one. The context `opened` defines these folders while a file is loaded; outside of it no folder is
opened.
"""

import contextlib
import contextvars
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from kgen.types import Path

_OPENED = contextvars.ContextVar("opened", default=None)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A file that is being loaded.

    Args:
        source: the file, for messages.
        folders: folders in which a named folder may lie, in order of preference.
        given: the folder that the caller names instead, or None.
    """

    source: object
    folders: tuple
    given: object = None


@contextlib.contextmanager
def opened(source: object, folders: Iterable[Path], given: Any = None) -> Iterator[None]:
    """A context in which a configuration may name folders that lie in `folders`; see `Opened`."""
    token = _OPENED.set(Opened(source, tuple(folders), given))
    try:
        yield
    finally:
        _OPENED.reset(token)


def now_opened() -> Opened | None:
    """Returns the file that is being loaded, an `Opened`, or None."""
    return _OPENED.get()


def named_folder(name: object, place: Opened) -> pathlib.Path:
    """Returns the path of a folder that a file names.

    Earlier versions wrote paths, of which the last part is used as the name.

    Args:
        name: the name in the file.
        place: the file, an `Opened`.

    Raises:
        ValueError: if `name` is not a plain name, or there is no such folder.
    """
    plain = name.replace("\\", "/").rpartition("/")[2] if isinstance(name, str) else None
    if plain and plain.strip(". ") and "\0" not in plain and len(plain) < 256:
        for root in place.folders:
            folder = pathlib.Path(root) / plain
            if folder.is_dir() and folder.resolve() == pathlib.Path(root).resolve() / plain:
                return folder
    raise ValueError(
        f"{place.source} names the folder {name!r:.200}, which must be a plain name of a folder in "
        "the folder of the file or beside it; for another folder, pass `text_encoder` to "
        "`kgen.from_preset` or `kgen.load_model`."
    )


def inside(folder: Path, name: str) -> pathlib.Path:
    """Returns the path of a file, and checks that it is not a link that leads out of the folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a link that leads out of the folder, or not a regular file.
    """
    path = pathlib.Path(folder) / name
    if not path.exists():
        raise FileNotFoundError(f"{folder} must hold {name}.")
    if not path.resolve().is_relative_to(pathlib.Path(folder).resolve()):
        raise ValueError(f"{path} is refused: it is a link that leads out of its folder.")
    if not path.is_file():
        raise ValueError(f"{path} must be a regular file.")
    return path


def sha256(path: Path) -> str:
    """Returns the sha256 digest of a file, which is read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
