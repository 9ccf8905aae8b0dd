"""Atomic replacement of a folder."""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(directory: Path) -> Iterator[Path]:
    """Yields the path of a new folder, which replaces `directory` at the end of the context.

    After an error in the context the new folder is removed, and `directory` is not changed.

    Args:
        directory: absolute path of the folder; its parents are created.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = f".{directory.name}.{os.getpid()}"
    partial, old = (directory.with_name(f"{beside}.{kind}") for kind in ("partial", "old"))
    try:
        yield partial
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)
    finally:
        if old.exists() and not directory.exists():
            old.rename(directory)
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)


def check_free(
    directory: Path, files: Collection[str], first: str, what: str, endings: tuple[str, ...] = ()
) -> None:
    """Checks that a folder may be replaced: that it is missing, empty or an earlier export.

    Args:
        directory: path of the folder.
        files: names of the files and folders of an export.
        first: the name that every export has.
        what: what the export is called in messages.
        endings: endings of further names that an export may have.

    Raises:
        FileExistsError: if the path is a file, or the folder holds other files.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise FileExistsError(f"`directory` must be a folder. Received: {directory}, a file.")
    names = sorted(path.name for path in directory.iterdir())
    other = [name for name in names if name not in files and not name.endswith(endings)]
    if names and (other or first not in names):
        raise FileExistsError(
            f"`directory` must be new, empty or {what}, which can be replaced. "
            f"Received: {directory}, which holds {(other or names)[:5]}."
        )
