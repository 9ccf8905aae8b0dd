"""Captions of the pictures in a folder, from text files, tables, or the names of subfolders.

    "txt"      heart.txt beside heart.png: each line that is not blank is a caption
    "csv"      captions.csv or metadata.csv, in the folder or in folders below it
    "jsonl"    metadata.jsonl likewise: a line is {"file_name": ..., "text": one or a list}
    "folders"  the first folder below is a class

A table names pictures by their paths below its own folder. A picture that a table names in several
rows has several captions.

Reference:
  https://huggingface.co/docs/datasets/image_dataset (the layout of "csv" and "jsonl").
"""

import csv
import os
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from kgen.data.folder.finding import JSON_TABLES, TABLES, Found, Names
from kgen.files.text import check_regular, parse_json, read_file
from kgen.types import Path

MAX_CAPTION_BYTES = 2**20  # of a text file, or of a line of a table
FILE_COLUMNS = ("file_name", "filename", "file", "image")
CAPTION_COLUMNS = ("caption", "text", "prompt")
MAX_CAPTIONS = 1000  # of one picture
_OTHERS = 100  # captions without a picture that are kept, to be named in a message


def captioned(found: Found, captions: str | None) -> tuple[list[str], dict, list[str]]:
    """Finds the captions or classes of pictures.

    Args:
        found: the content of the folder, a `finding.Found`.
        captions: None, `"txt"`, `"csv"`, `"jsonl"` or `"folders"`.

    Returns:
        The names of the pictures that have a caption or class; a dictionary with one column of
        theirs (`"prompts"`, lists of captions; or `"labels"`) or none; and a list of problems with
        other pictures.

    Raises:
        FileNotFoundError: if there is no table of the requested kind.
        ValueError: if a table is damaged.
    """
    if captions is None:
        return found.pictures, {}, []
    if captions == "folders":
        names = class_names(found)
        good = [name for name in found.pictures if "/" in name]
        labels = [names.index(name.split("/")[0]) for name in good]
        alone = [found.path(name) for name in found.pictures if "/" not in name]
        problems = [f"{path} is in no folder of a class" for path in alone]
        return good, {"labels": np.array(labels, "int32")}, problems
    texts, others, problems = _texts(found) if captions == "txt" else _tables(found, captions)
    good = [name for name in found.pictures if texts.get(name)]
    without = [found.path(name) for name in found.pictures if name not in texts]
    problems += [f"{path} has no caption" for path in without]
    problems += [f"{path} has no picture" for path in others]
    return good, {"prompts": [texts[name] for name in good]}, problems


def class_names(found: Found) -> list:
    """Returns the names of the subfolders that contain pictures at any depth, sorted."""
    return sorted({name.split("/")[0] for name in found.pictures if "/" in name})


def _texts(found: Found) -> tuple[dict, list[str], list[str]]:
    """Returns the captions by picture, texts without a picture, and problems."""
    stems = {}
    for name in found.pictures:
        stems.setdefault(os.path.splitext(name)[0], []).append(name)
    known = Names(stems)
    texts, others, problems = {}, [], []
    for name in found.texts:
        path = found.path(name)
        stem = known.find(os.path.splitext(name)[0])
        try:
            data = read_file(path, MAX_CAPTION_BYTES)
            lines = [" ".join(line.split()) for line in data.decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            problems.append(f"{path} must be text in UTF-8 ({error})")
            texts |= {name: () for name in stems.get(stem, ())}
            continue
        lines = list(dict.fromkeys(line for line in lines if line))[:MAX_CAPTIONS]
        if lines and stem is None:
            others.append(path)
        elif lines:
            texts |= dict.fromkeys(stems[stem], lines)
    return texts, others, problems


def _tables(found: Found, captions: str | None) -> tuple[dict, list[str], list[str]]:
    """Returns, for all tables, the captions by picture, rows without a picture, and problems."""
    wanted = TABLES if captions == "csv" else JSON_TABLES
    tables = {}  # by folder; of two kinds in one folder the first is used
    for kind in reversed(wanted):
        tables |= {_above(name): name for name in found.tables if _last(name) == kind}
    if not tables:
        other = sorted({_last(name) for name in found.tables})
        hint = f" It holds {', '.join(other)}, which another `captions` reads." if other else ""
        raise FileNotFoundError(
            f"`directory` must hold {' or '.join(wanted)}. Received: {found.root}.{hint}"
        )
    known, texts, others, problems = Names(found.pictures), {}, [], []
    root = os.path.abspath(found.root)
    for folder in sorted(tables):
        path = found.path(tables[folder])
        check_regular(path)
        read = _csv_rows if captions == "csv" else _json_rows
        for number, cell, lines in read(path, problems):
            below = f"{folder}/{cell}" if folder else cell
            below = os.path.relpath(cell, root) if os.path.isabs(cell) else below
            name = known.find(below) if cell else None
            if name is None:
                if lines and len(others) < _OTHERS:
                    others.append(found.path(below))
                continue
            have = texts.setdefault(name, [])
            twice = next((line for line in lines if line in have), None)
            if twice is not None:
                raise ValueError(
                    f"{path} must name a picture once with a caption. "
                    f"Received: {cell!r:.200} twice with {twice!r:.200}, again in row {number}."
                )
            if len(have) + len(lines) > MAX_CAPTIONS:
                raise ValueError(f"{path} must give {cell!r:.200} at most {MAX_CAPTIONS} captions.")
            have += lines
    return {name: lines for name, lines in texts.items() if lines}, others, problems


def _above(name: str) -> str:
    return name.rpartition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _add(problems: list[str], problem: str) -> None:
    if len(problems) < _OTHERS:
        problems.append(problem)


def _csv_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yields the rows of a CSV table: number, name of the picture, captions."""
    # Bytes that are not UTF-8 become surrogates, which identify their row.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(_lines(file, path), strict=True)
        try:
            header = [name.strip().lower() for name in next(rows, [])]
            columns = [
                next((header.index(name) for name in names if name in header), None)
                for names in (FILE_COLUMNS, CAPTION_COLUMNS)
            ]
            if None in columns:
                hint = ""
                if len(header) == 1 and any(sign in header[0] for sign in ";\t"):
                    hint = " Cells must be separated by commas."
                shown = [_readable(name) for name in header[:20]]
                raise ValueError(
                    f"{path} must have a column of {FILE_COLUMNS} and one of {CAPTION_COLUMNS}. "
                    f"Received: columns {shown}.{hint}"
                )
            for number, row in enumerate(rows, 2):
                cell, text = (row[i].strip() if i < len(row) else "" for i in columns)
                if _readable(cell + text) != cell + text:
                    _add(problems, f"{path} must be text in UTF-8, which row {number} is not")
                elif any(other.strip() for other in row[len(header) :]):
                    _add(
                        problems,
                        f"{path}, row {number} ({cell!r:.100}), has {len(row)} cells for "
                        f"{len(header)} columns: put a text with a comma in double quotes",
                    )
                else:
                    yield number, cell, [text] if text else []
        except csv.Error as error:
            raise ValueError(f"{path} must be a table of captions. Received: {error}.") from error


def _readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yields the lines of a table, of limited length."""
    while line := file.readline(MAX_CAPTION_BYTES + 1):
        if len(line) > MAX_CAPTION_BYTES:
            raise ValueError(f"{path} must have lines of at most {MAX_CAPTION_BYTES} characters.")
        yield line


def _json_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yields the rows of a table in JSON lines: number, name of the picture, captions."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_CAPTION_BYTES + 1):
            number += 1
            if not line.strip():
                continue
            source = f"{path}, row {number},"
            try:
                row = parse_json(line.removeprefix(b"\xef\xbb\xbf"), source, MAX_CAPTION_BYTES)
                cell, lines = _json_row(row, source)
            except ValueError as error:
                _add(problems, str(error).removesuffix("."))
                continue
            yield number, cell, lines


def _json_row(row: Any, source: object) -> tuple[str, list[str]]:
    """Returns the name of the picture and the captions in a row of JSON."""
    row = (
        {key.strip().lower(): value for key, value in row.items()} if isinstance(row, dict) else {}
    )
    cell = next((row[name] for name in FILE_COLUMNS if name in row), None)
    lines = next((row[name] for name in CAPTION_COLUMNS if name in row), None)
    lines = [] if lines is None else lines
    lines = [lines] if isinstance(lines, str) else lines
    if not (
        isinstance(cell, str)
        and isinstance(lines, list)
        and all(isinstance(line, str) for line in lines)
    ):
        raise ValueError(
            f"{source} must have a text of {FILE_COLUMNS}, and of {CAPTION_COLUMNS} a text or a "
            f"list of texts. Received: {sorted(row)[:20]}."
        )
    return cell.strip(), [line.strip() for line in lines if line.strip()]
