"""Safe reading of untrusted JSON: its size, depth and number of values are limited.

A file of 16 MB can require gigabytes of memory in two ways: it may be compressed in an archive, and
a parsed value takes up to a hundred times the bytes of its text. So bytes are counted while they
are read, and brackets, commas, colons and strings before they are parsed.
"""

import json
import os
import re
import stat
from typing import Any

from kgen.types import Path

MAX_CONFIG_BYTES = 16 * 2**20
MAX_DEPTH = 100
_BYTES_PER_TOKEN = 16  # a text may have one token per 16 bytes of its limit
_SMALLEST_LIMIT = 2**16  # number of tokens that any text may have
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{},:]', re.DOTALL)


def read_file(path: Path, limit: int = MAX_CONFIG_BYTES, argument: str | None = None) -> bytes:
    """Reads a whole file of at most `limit` bytes.

    Args:
        path: the file, a `pathlib.Path`.
        limit: largest number of bytes.
        argument: name of the argument that raises the limit, for the message.

    Returns:
        The content as bytes.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not a regular file, or has more than `limit` bytes.
    """
    check_regular(path)
    with open(path, "rb") as file:
        data = b"" if os.fstat(file.fileno()).st_size > limit else file.read(limit + 1)
        if len(data) > limit or os.fstat(file.fileno()).st_size > limit:
            raise ValueError(f"{path} must have at most {limit} bytes{_raised_by(argument)}.")
    return data


def check_regular(path: Path) -> None:
    """Checks that a path is a regular file, since reading a pipe or a device may never end.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} must be a regular file.")


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES, argument: str | None = None) -> Any:
    """Reads and parses a JSON file; see `read_file` and `parse_json`."""
    return parse_json(read_file(path, limit, argument), path, limit, argument)


def parse_json(
    data: bytes,
    source: object,
    limit: int = MAX_CONFIG_BYTES,
    argument: str | None = None,
    unique: bool = False,
) -> Any:
    """Parses a JSON text of limited size, depth and number of values.

    Args:
        data: the text, bytes in UTF-8.
        source: where it is from, for the message.
        limit: largest number of bytes; one in 16 may be a bracket, a comma, a colon or a string.
        argument: name of the argument that raises the limit, for the message.
        unique: whether a name that comes twice in a dictionary is an error.

    Raises:
        ValueError: if the text is too long, nested too deeply, has too many values, or is not JSON.

    Example:
        >>> parse_json(b'{"units": [3, 4]}', "config.json")
        {'units': [3, 4]}
    """
    raised = _raised_by(argument)
    if len(data) > limit:
        raise ValueError(f"{source} must have at most {limit} bytes{raised}.")
    most = max(limit // _BYTES_PER_TOKEN, _SMALLEST_LIMIT)
    depth = 0
    for number, token in enumerate(_TOKENS.finditer(data)):
        first = data[token.start()]
        depth += (first in b"[{") - (first in b"]}")
        if number >= most:
            raise ValueError(f"{source} must hold fewer than {most} values{raised}.")
        if depth > MAX_DEPTH:
            raise ValueError(f"{source} must not be nested more than {MAX_DEPTH} deep.")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once if unique else None)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{source} is damaged: it must be JSON ({reason(error)}).") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the name {name!r:.200} comes twice")
        result[name] = value
    return result


def reason(error: BaseException) -> str:
    r"""Returns the first line of the message of an error, shortened to 300 characters.

    Example:
        >>> reason(ValueError("No such layer.\nThe whole configuration: ..."))
        'No such layer'
    """
    text = str(error).rpartition("Exception encountered:")[2]  # of an error that Keras has wrapped
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = line if len(line) <= 300 else line[:297] + "..."
    return line.removesuffix(".").removesuffix(":") or type(error).__name__


def _raised_by(argument: str | None) -> str:
    return f", or the limit that `{argument}` raises" if argument else ""
