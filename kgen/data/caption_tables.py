"""Tables of captions: CSV with a line of names, or an object of JSON a line.

    file_name,caption                    {"file_name": "1.png", "caption": "a red heart"}
    1.png,a red heart

No line may be without end, and a picture is named once.
"""

import csv
import json

from kgen.files.text import check_regular

MAX_CAPTION_BYTES = 2**20  # of a text file, or of a line of a table
_FILE_COLUMNS = ("file_name", "filename", "file", "image")
_CAPTION_COLUMNS = ("caption", "text", "prompt")
_OTHERS = 100  # captions without a picture that are kept, to be named in a message


def captions_of(table, directory, paths):
    """Returns the captions of a table by the paths of their pictures.

    Args:
        table: the file, which ends in `.csv` or `.jsonl`.
        directory: the folder from which it names pictures.
        paths: the pictures that are there.

    Returns:
        A dictionary, also of some captions that have no picture.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such table.
    """
    check_regular(table)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            lines = _lines(file, table)
            json_lines = table.suffix == ".jsonl"
            rows = _objects(lines, table) if json_lines else csv.reader(lines, strict=True)
            return _rows(rows, table, directory, paths)
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} must be text in UTF-8. Received: {error}.") from error
    except csv.Error as error:
        raise ValueError(f"{table} must be a table of captions. Received: {error}.") from error


def _lines(file, table):
    """The lines of a table, of which none may be without end."""
    while line := file.readline(MAX_CAPTION_BYTES + 1):
        if len(line) > MAX_CAPTION_BYTES:
            raise ValueError(f"{table} must have lines of at most {MAX_CAPTION_BYTES} characters.")
        yield line


def _objects(lines, table):
    """The objects of JSON lines as rows of a table, its names of columns first."""
    yield [_FILE_COLUMNS[0], _CAPTION_COLUMNS[0]]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{table} must be JSON in each line. Received: line {number}, {error}."
            ) from error
        known = {str(k).lower(): v for k, v in value.items()} if isinstance(value, dict) else {}
        cells = [
            next((known[name] for name in names if name in known), None)
            for names in (_FILE_COLUMNS, _CAPTION_COLUMNS)
        ]
        if not isinstance(cells[0], str) or not isinstance(cells[1], str | None):
            raise ValueError(
                f"{table} must have in each line an object with a string for one of "
                f"{_FILE_COLUMNS} and for one of {_CAPTION_COLUMNS}. Received: line {number}."
            )
        yield [cells[0], cells[1] or ""]


def _rows(rows, table, directory, paths):
    names = [name.strip().lower() for name in next(rows, [])]
    file = next((names.index(name) for name in _FILE_COLUMNS if name in names), None)
    caption = next((names.index(name) for name in _CAPTION_COLUMNS if name in names), None)
    if file is None or caption is None:
        raise ValueError(
            f"{table} must have a column of {_FILE_COLUMNS} and one of {_CAPTION_COLUMNS}. "
            f"Received: columns {names[:20]}."
        )
    texts, known, others = {}, set(paths), 0
    for row in rows:
        cell, text = (row[i].strip() if i < len(row) else "" for i in (file, caption))
        path = directory / cell
        if path in texts:
            raise ValueError(f"{table} must name a picture once. Received: {cell!r:.200} twice.")
        if text and (path in known or others < _OTHERS):
            others += path not in known
            texts[path] = text
    return texts
