"""Which folders a file may name, and writing files in one step.

A configuration may name a folder, such as that of a text encoder. It is opened only where it lies
in the folder of the file itself or beside that, under a plain name, unless the caller names another
one. While a file is loaded, `opened` says where that is; outside of it nothing is opened at all.
"""

import contextlib
import contextvars
import dataclasses
import hashlib
import os
import pathlib

_OPENED = contextvars.ContextVar("opened", default=None)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A file that is being loaded.

    Args:
        source: the file, for messages.
        folders: where a folder that it names may lie, the first one before the others.
        given: what the caller names in place of it, or None.
    """

    source: object
    folders: tuple
    given: object = None


@contextlib.contextmanager
def opened(source, folders, given=None):
    """Within it, a configuration may name folders that lie in `folders`; see `Opened`."""
    token = _OPENED.set(Opened(source, tuple(folders), given))
    try:
        yield
    finally:
        _OPENED.reset(token)


def now_opened():
    """What is being loaded, an `Opened`, or None."""
    return _OPENED.get()


def named_folder(name, place):
    """The folder of that name where a file may name one.

    Of a path, as earlier versions wrote it, the last part is the name.

    Args:
        name: what the file says.
        place: an `Opened`.

    Raises:
        ValueError: if it is no plain name, or of no folder there.
    """
    plain = name.replace("\\", "/").rpartition("/")[2] if isinstance(name, str) else None
    if plain and plain.strip(". ") and "\0" not in plain and len(plain) < 256:
        for root in place.folders:
            folder = pathlib.Path(root) / plain
            if folder.is_dir() and folder.resolve() == pathlib.Path(root).resolve() / plain:
                return folder
    raise ValueError(
        f"{place.source} names the folder {name!r:.200}, which must lie in the folder of the file "
        "or beside it, under a plain name; `text_encoder` of `kgen.from_preset` and "
        "`kgen.load_model` allows another one."
    )


def inside(folder, name):
    """The path of a file of a folder, which no link may lead out of.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a link that leads out of the folder, or no regular file.
    """
    path = pathlib.Path(folder) / name
    if not path.exists():
        raise FileNotFoundError(f"{folder} must hold {name}.")
    if not path.resolve().is_relative_to(pathlib.Path(folder).resolve()):
        raise ValueError(f"{path} is refused: it is a link that leads out of its folder.")
    if not path.is_file():
        raise ValueError(f"{path} must be a regular file.")
    return path


def sha256(path):
    """The sha256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path):
    """Sees to it that a file or the entries of a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
