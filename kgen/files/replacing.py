"""Folders that are written as a whole, and replace an earlier one in one step."""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(directory: Path) -> Iterator[Path]:
    """Yields the path of a folder to write, which then stands in the place of `directory`.

    After an error the folder is removed, and `directory` is as before.
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
    """Checks that a folder may be replaced: it is new, empty, or was written before.

    Args:
        directory: the folder.
        files: names of files that may be in it.
        first: the name that must be among them.
        what: what such a folder is called.
        endings: of other names that may be in it.

    Raises:
        FileExistsError: if it is a file, or holds anything else.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise FileExistsError(f"`directory` must be a folder. Received: {directory}, a file.")
    names = sorted(path.name for path in directory.iterdir())
    other = [name for name in names if name not in files and not name.endswith(endings)]
    if names and (other or first not in names):
        raise FileExistsError(
            f"`directory` must be new, empty or {what}, which are replaced. "
            f"Received: {directory}, which holds {(other or names)[:5]}."
        )
