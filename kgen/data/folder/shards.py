"""Pictures in archives: tar files in the layout of WebDataset, and TFRecord files.

    "webdataset"   *.tar       a/heart.png, a/heart.txt: files of one name are one example.
                               Texts: .txt, .text, .caption, or .json with "caption" or "text";
                               classes: .cls, a number
    "tfrecord"     *.tfrecord  records of `tf.train.Example`: a picture under "image",
                               "image/encoded", "image_raw", "jpg", "jpeg" or "png"; texts under
                               "caption", "text" or "prompt"; a class under "label" or
                               "image/class/label"

An archive is scanned once to find the offsets of its pictures, which are read in place. Nothing is
unpacked, and declared sizes are checked against the size of the file.

References:
  https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html (tar: ustar and pax headers).
  https://github.com/webdataset/webdataset (the layout).
"""

import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from kgen.data.folder.captions import CAPTION_COLUMNS, MAX_CAPTION_BYTES
from kgen.data.folder.finding import SUFFIXES, Entry, Found
from kgen.files.records import check_records
from kgen.files.text import check_regular, parse_json

MAX_NAME_BYTES = 4096
MAX_HEADER_BYTES = 2**20  # of an extended header of a tar file
_TEXTS = (".txt", ".text", ".caption")
_PICTURES = ("image", "image/encoded", "image_raw", "jpg", "jpeg", "png")
_LABELS = ("label", "image/class/label")


def examples(found: Found, kind: str) -> tuple[list[Entry], dict, list[str]]:
    """Finds the examples in the archives of a folder.

    Args:
        found: the content of the folder, a `finding.Found`.
        kind: `"webdataset"` or `"tfrecord"`.

    Returns:
        A list of the pictures, as `finding.Entry`; a dictionary with one column, the captions of
        each picture or its class, or an empty one; and a list of problems.

    Raises:
        FileNotFoundError: if there is no such archive.
        ValueError: if an archive is damaged, or has no picture.
    """
    is_tar = kind == "webdataset"
    paths = [found.path(name) for name in found.shards if (".tar" in name) == is_tar]
    if not paths:
        raise FileNotFoundError(
            f"`directory` must hold {'*.tar' if is_tar else '*.tfrecord'} files. "
            f"Received: {found.root}."
        )
    rows, problems = [], []
    for path in paths:
        rows += _tar(path, problems) if is_tar else _records(path, problems)
    if not rows:
        raise ValueError(f"`directory` must hold pictures. Received: {found.root}, which has none.")
    for column in ("prompts", "labels"):
        having = [row for row in rows if row.get(column) is not None]
        if having:
            without = [row["entry"].place for row in rows if row.get(column) is None]
            problems += [f"{place} has no {_WORDS[column]}" for place in without]
            values = [row[column] for row in having]
            values = np.array(values, "int32") if column == "labels" else values
            return [row["entry"] for row in having], {column: values}, problems
    return [row["entry"] for row in rows], {}, problems


_WORDS = {"prompts": "caption", "labels": "class"}


def _tar(path: str, problems: list[str]) -> Iterable[dict]:
    """Returns the examples of a tar file."""
    if not path.lower().endswith(".tar"):
        raise ValueError(
            f"{path} must be unpacked to a .tar file first: it cannot be read in parts."
        )
    rows, texts = {}, {}
    with open(path, "rb") as file:
        for name, offset, size in _members(file, path):
            stem, suffix = _key(name)
            if suffix in (*SUFFIXES, ".avif"):
                entry = Entry(name, path, offset, size)
                if "entry" in rows.setdefault(stem, {}):
                    problems.append(f"{entry.place} is a second picture of one name")
                else:
                    rows[stem]["entry"] = entry
            elif suffix in (*_TEXTS, ".json", ".cls"):
                if size > MAX_CAPTION_BYTES:
                    raise ValueError(
                        f"{path} must have texts of at most {MAX_CAPTION_BYTES} bytes. "
                        f"Received: {name!r:.200} of {size}."
                    )
                texts.setdefault(stem, []).append((suffix, offset, size))
        for stem, parts in texts.items():
            for suffix, offset, size in parts:
                file.seek(offset)
                try:
                    _add_text(
                        rows.setdefault(stem, {}), suffix, file.read(size), f"{path} ({stem})"
                    )
                except ValueError as error:
                    problems.append(f"{path} ({stem}{suffix}) cannot be read: {error}")
    for stem in [stem for stem, row in rows.items() if "entry" not in row]:
        problems.append(f"{path} ({stem}) has no picture")
        del rows[stem]
    return rows.values()


def _key(name: str) -> tuple[str, str]:
    """Splits the name of a part into the key of its example and its suffix."""
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + suffix).lower()


def _add_text(row: dict, suffix: str, data: bytes, source: object) -> None:
    if suffix == ".cls":
        row["labels"] = _label(data.decode("ascii", "replace"))
    elif suffix == ".json":
        values = parse_json(data, source, MAX_CAPTION_BYTES)
        values = values if isinstance(values, dict) else {}
        lines = next((values[name] for name in CAPTION_COLUMNS if name in values), [])
        lines = [lines] if isinstance(lines, str) else lines
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise ValueError("its captions must be texts")
        _add_lines(row, lines)
    else:
        _add_lines(row, data.decode("utf-8-sig").splitlines())


def _add_lines(row: dict, lines: Any) -> None:
    lines = [" ".join(line.split()) for line in lines]
    have = row.get("prompts") or []
    have = list(dict.fromkeys([*have, *(line for line in lines if line)]))
    if have:
        row["prompts"] = have


def _label(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise ValueError("a class must be a number of at least 0")
    return number


def _members(file: BinaryIO, path: str) -> Iterator[tuple[str, int, int]]:
    """Yields the name, offset and size of each regular file in a tar file."""
    check_regular(path)
    end, place, longer = os.fstat(file.fileno()).st_size, 0, {}
    while place + 512 <= end:
        file.seek(place)
        header = file.read(512)
        if not header.strip(b"\0"):
            break
        damaged = ValueError(f"{path} is damaged: its header at byte {place} must be whole.")
        try:
            total = int(header[148:156].strip(b"\0 ") or b"0", 8)
            size = _octal(header[124:136])
        except ValueError:
            raise damaged from None
        if total != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
            raise damaged
        kind, start = header[156:157], place + 512
        if kind in (b"0", b"\0") and "size" in longer:
            size = longer["size"]
        place = start + (size + 511) // 512 * 512
        if size < 0 or start + size > end:
            raise damaged
        if kind in (b"x", b"L", b"g"):
            if size > MAX_HEADER_BYTES:
                raise ValueError(f"{path} must have headers of at most {MAX_HEADER_BYTES} bytes.")
            if kind != b"g":
                data = file.read(size)
                longer |= _extended(data, damaged) if kind == b"x" else {"name": data.strip(b"\0")}
            continue
        name = header[:100].partition(b"\0")[0]
        if header[257:262] == b"ustar" and header[345]:
            name = header[345:500].partition(b"\0")[0] + b"/" + name
        name = longer.get("name", name)
        longer = {}
        if kind not in (b"0", b"\0"):  # a folder, a link, a device: nothing to read
            continue
        if len(name) > MAX_NAME_BYTES:
            raise ValueError(f"{path} must have names of at most {MAX_NAME_BYTES} bytes.")
        yield name.decode("utf-8", "replace").removeprefix("./"), start, size


def _octal(field: bytes) -> int:
    if field[0] & 0x80:  # a number of more than 8 GB, in binary
        return int.from_bytes(field[1:])
    return int(field.strip(b"\0 ") or b"0", 8)


def _extended(data: bytes, damaged: Exception) -> dict:
    """Returns the name and the size of the next file that an extended header defines."""
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) + 3 <= int(length) <= len(data):
            raise damaged
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            found["name"] = value
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise damaged
            found["size"] = int(value)
        data = data[int(length) :]
    return found


def _records(path: str, problems: list[str]) -> list[dict]:
    """Returns the examples of a TFRecord file."""
    import tensorflow as tf

    check_records(path)
    rows = []
    with open(path, "rb") as file:
        place, end, number = 0, os.fstat(file.fileno()).st_size, 0
        while place < end:
            file.seek(place)
            length = struct.unpack("<Q", file.read(8))[0]
            file.seek(4, 1)
            data = file.read(length)
            try:
                rows.append(_record(tf.train.Example, data, path, place + 12, number))
            except Exception as error:  # the parser of records raises errors of its own
                problems.append(f"{path} (record {number}) cannot be read: {error}")
            place, number = place + 16 + length, number + 1
    return rows


def _record(parser: Any, data: bytes, path: str, offset: int, number: int) -> dict:
    features = parser.FromString(data).features.feature
    picture = next((features[n].bytes_list.value for n in _PICTURES if n in features), ())
    if len(picture) != 1:
        raise ValueError(f"it must have one picture, under a name of {_PICTURES}")
    name = next((features[n].bytes_list.value for n in ("key", "file_name") if n in features), ())
    name = (
        name[0].decode("utf-8", "replace")
        if len(name) == 1
        else f"{os.path.basename(path)}/record {number}"
    )
    # The picture is a part of the record, so its offset is enough.
    row = {"entry": Entry(name, path, offset + data.index(picture[0]), len(picture[0]))}
    texts = next((features[n].bytes_list.value for n in CAPTION_COLUMNS if n in features), ())
    _add_lines(row, [line for text in texts for line in text.decode("utf-8").splitlines()])
    label = next((features[n].int64_list.value for n in _LABELS if n in features), ())
    if len(label) == 1:
        row["labels"] = _label(label[0])
    return row
