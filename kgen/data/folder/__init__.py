"""Batches for `fit` from a folder of your own pictures, with or without captions or classes.

    captions=None          pictures/**/*.png ...                   batches x
    captions="txt"         heart.png, and beside it heart.txt      {"images": x, "prompts": ...}
    captions="csv"         captions.csv or metadata.csv with the   {"images": x, "prompts": ...}
                           columns file_name, caption
    captions="jsonl"       metadata.jsonl, the layout of Hugging   {"images": x, "prompts": ...}
                           Face: {"file_name": ..., "text": ...}
    captions="folders"     cats/1.png, dogs/2.png                  {"images": x, "labels": ...}
    captions="webdataset"  *.tar, examples by the names in them    as the archives have captions,
    captions="tfrecord"    *.tfrecord, records of tf.train.Example classes or neither

Pictures may be AVIF (if Pillow supports it), BMP, GIF (the first frame), JPEG, PNG, TIFF and WebP
files of any size: grey, with a palette, of 16 bits or with transparency. A picture is rotated by
its EXIF orientation, composited on white, cropped (or padded) at its centre to the aspect ratio and
resized. Pictures in other formats (such as HEIC and JPEG XL) are named in a warning. Of several
captions of a picture, the lines of its text or rows of a table, one is drawn in each epoch.

All pictures are read once, in threads, so that a broken file is reported before training begins.
Small data sets are kept in memory as bytes, N x H x W x channels; larger ones are read again from
their files for each batch. The folder may be untrusted: see `kgen.data.picture_files` for the
limits, and links that lead out of the folder are followed only with `follow_links`.
"""

import math
import os
import warnings
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_interval, check_one_of
from kgen.data.arrays import VALUES, batches, batches_of
from kgen.data.folder.captions import captioned, class_names
from kgen.data.folder.decoding import Reader
from kgen.data.folder.finding import SUFFIXES, Entry, Found, find, unread_message
from kgen.data.folder.shards import examples
from kgen.data.folder.splitting import parts
from kgen.data.folder.streaming import reading
from kgen.data.picture_files import MAX_PIXELS
from kgen.types import Path

__all__ = ["classes", "load", "load_arrays"]

CAPTIONS = ("txt", "csv", "jsonl", "folders", "webdataset", "tfrecord")
SPLITS = ("train", "validation", "all")
MAX_BYTES_IN_MEMORY = 256 * 2**20  # largest size of a data set that is kept in memory by default


def load(
    directory: Path,
    size: int | tuple[int, int] = 64,
    *,
    captions: str | None = None,
    channels: Literal[1, 3, 4] = 3,
    values: Literal["binary", "unit", "signed"] = "signed",
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
    resize: Literal["crop", "pad"] = "crop",
    split: Literal["all", "train", "validation"] = "all",
    validation: float = 0.1,
    in_memory: bool | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    max_pixels: int = MAX_PIXELS,
    follow_links: bool = False,
    progress: bool = True,
) -> tf.data.Dataset:
    """Returns the pictures of a folder in batches, ready for `model.fit`.

    Args:
        directory: the folder; pictures in its subfolders are included, hidden files are not.
        size: side of the returned pictures in pixels, or `(height, width)`.
        captions: None or one of `CAPTIONS`; see the module.
        channels: 3 for colour, 1 for grey, 4 for colour and opacity.
        values: `"signed"`, `"unit"` or `"binary"`; see `kgen.data.arrays`.
        batch_size: number of pictures in a batch, a positive integer.
        shuffle: whether to shuffle again in each epoch.
        seed: integer seed of the order, and of the choice among several captions.
        resize: `"crop"` for the centre of the picture, `"pad"` for all of it on white.
        split: `"all"`, or one of two disjoint parts, `"train"` or `"validation"`.
        validation: approximate fraction of the validation part. The part of a picture depends on
            its name only, so it does not change when other pictures are added or removed.
        in_memory: whether pictures are kept in memory; None for data sets of at most 256 MB.
        on_error: `"raise"`, or `"skip"` to leave out pictures that are broken or lack a caption,
            with a warning that names them.
        max_pixels: largest number of pixels of a picture, and of all that are read at once.
        follow_links: whether links may lead out of the folder.
        progress: whether to show a progress bar for the first reading of 1000 or more pictures.

    Returns:
        A `tf.data.Dataset` of known length: float32 `[B, H, W, channels]`, or a dictionary of it,
        `"images"`, and `"prompts"` string `[B]` or `"labels"` int32 `[B]`.

    Raises:
        FileNotFoundError: if the folder does not exist, or has no table of captions or archive.
        TypeError: if an argument is not a number.
        ValueError: if the folder has no picture, a picture is broken or lacks its caption, a
            caption lacks its picture, or an option has another value.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as place:
        ...     Image.new("RGB", (30, 20), "red").save(pathlib.Path(place, "heart.png"))
        ...     next(iter(load(place, size=(16, 24)))).shape
        TensorShape([1, 16, 24, 3])
    """
    check_one_of("values", values, VALUES)
    check_count("batch_size", batch_size)
    if in_memory not in (None, True, False):
        raise ValueError(
            f"`in_memory` must be None, True or False. Received: in_memory={in_memory!r}."
        )
    entries, column, read = _prepared(
        directory, size, captions, channels, resize, split, validation, on_error, max_pixels,
        follow_links,
    )  # fmt: skip
    if in_memory is None:
        in_memory = len(entries) * math.prod(read.shape) <= MAX_BYTES_IN_MEMORY
    images, good = _read_all(entries, read, on_error, directory, progress, in_memory)
    columns = {name: _column(values, good) for name, values in column.items()}
    options = {"values": values, "batch_size": batch_size, "shuffle": shuffle, "seed": seed}
    if in_memory:
        return batches(images, columns, **options)
    entries = [entries[i] for i in good]
    return batches_of(reading(entries, read), len(entries), columns, **options)


def load_arrays(
    directory: Path,
    size: int | tuple[int, int] = 64,
    *,
    captions: str | None = None,
    channels: Literal[1, 3, 4] = 3,
    resize: Literal["crop", "pad"] = "crop",
    split: Literal["all", "train", "validation"] = "all",
    validation: float = 0.1,
    on_error: Literal["raise", "skip"] = "raise",
    max_pixels: int = MAX_PIXELS,
    follow_links: bool = False,
    progress: bool = True,
) -> tuple:
    """Returns the pictures of a folder in memory, in the order of their paths.

    Args:
        directory: see `load`, as for all other arguments.
        size: side of the pictures, or `(height, width)`.
        captions: None or one of `CAPTIONS`.
        channels: 1, 3 or 4.
        resize: `"crop"` or `"pad"`.
        split: `"train"`, `"validation"` or `"all"`.
        validation: approximate fraction of the validation part.
        on_error: `"raise"` or `"skip"`.
        max_pixels: largest number of pixels of a picture.
        follow_links: whether links may lead out of the folder.
        progress: whether to show a progress bar.

    Returns:
        uint8 `[N, H, W, channels]`, and a dictionary: with `"prompts"`, strings `[N]`, or a
        `tf.RaggedTensor` `[N, None]` if a picture has several captions; with `"labels"`, int32
        `[N]`, the index of the class in `classes(directory)`; or empty without captions.

    Raises:
        FileNotFoundError: see `load`.
        TypeError: see `load`.
        ValueError: see `load`.
    """
    entries, column, read = _prepared(
        directory, size, captions, channels, resize, split, validation, on_error, max_pixels,
        follow_links,
    )  # fmt: skip
    images, good = _read_all(entries, read, on_error, directory, progress, True)
    columns = {name: _column(values, good) for name, values in column.items()}
    if isinstance(columns.get("prompts"), tf.Tensor):
        columns["prompts"] = np.array([text.decode() for text in columns["prompts"].numpy()])
    return images, columns


def classes(directory: Path, follow_links: bool = False) -> list:
    """Returns the names of the classes of `captions="folders"`, sorted.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the folder has no picture.
    """
    return class_names(_with_pictures(find(directory, follow_links), directory))


def _prepared(
    directory: Path,
    size: int | tuple[int, int],
    captions: str | None,
    channels: Literal[1, 3, 4],
    resize: Literal["crop", "pad"],
    split: Literal["all", "train", "validation"],
    validation: float,
    on_error: Literal["raise", "skip"],
    max_pixels: int,
    links: bool,
) -> tuple[list[Entry], dict, Reader]:
    """Validates the options; returns the places of the pictures, their columns and a reader."""
    sizes = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size, size)
    for side in sizes:
        check_count("size", side)
    check_count("max_pixels", max_pixels)
    if captions is not None:
        check_one_of("captions", captions, CAPTIONS)
    check_one_of("resize", resize, ("crop", "pad"))
    check_one_of("split", split, SPLITS)
    check_interval("validation", validation, "(0, 1)")
    check_one_of("on_error", on_error, ("raise", "skip"))
    if isinstance(channels, bool) or channels not in (1, 3, 4):
        raise ValueError(f"`channels` must be 1, 3 or 4. Received: channels={channels!r}.")
    read = Reader(tuple(sizes), channels, resize, max_pixels)
    found = find(directory, links)
    if captions in ("webdataset", "tfrecord"):
        entries, column, problems = examples(found, captions)
    else:
        _with_pictures(found, directory)
        names, column, problems = captioned(found, captions)
        entries = [Entry(name, found.path(name)) for name in names]
        if found.unread:
            warnings.warn(f"Left out: {unread_message(found)}.", stacklevel=3)
    _report(found.problems + problems, on_error)
    if split != "all":
        of = parts(entries, [_origin(entry, found) for entry in entries], validation)
        good = [i for i, part in enumerate(of) if part == split]
        entries = [entries[i] for i in good]
        column = {name: _picked(values, good) for name, values in column.items()}
        if not entries:
            raise ValueError(
                f"`split` must leave a picture: with validation={validation} none of the "
                f'{len(found.pictures)} is in this part. Received: split="{split}".'
            )
    return entries, column, read


def _origin(entry: Entry, found: Found) -> str:
    """Returns the path of the file of a picture, with links resolved."""
    if entry.size is not None:
        return entry.name
    real, root = os.path.realpath(entry.path), os.path.realpath(found.root)
    return os.path.relpath(real, root).replace(os.sep, "/") if real.startswith(root) else real


def _with_pictures(found: Found, directory: Path) -> Found:
    if found.pictures:
        return found
    others = [text for text in (unread_message(found), *found.problems[:5]) if text]
    if found.shards:
        others.append('archives are read with `captions="webdataset"` or `"tfrecord"`')
    raise ValueError(
        f"`directory` must hold pictures ({', '.join(SUFFIXES)}). Received: {directory}, which has "
        f"none{''.join(f'; {text}' for text in others)}."
    )


def _read_all(
    entries: list[Entry],
    read: Reader,
    on_error: Literal["raise", "skip"],
    directory: Path,
    progress: bool,
    keep: bool,
) -> tuple[np.ndarray | None, list[int]]:
    """Reads all pictures; returns them, or None if not kept, and the indices of intact ones."""
    images = np.empty([len(entries), *read.shape], "uint8") if keep else None
    good, problems = [], []
    for i, image in enumerate(read.all(entries, progress)):
        if isinstance(image, str):
            problems.append(image)
            continue
        if keep:
            images[len(good)] = image
        good.append(i)
    _report(problems, on_error)
    if not good:
        raise ValueError(f"`directory` must hold a usable picture. Received: {directory}.")
    return (images[: len(good)] if keep else None), good


def _picked(values: Any, good: list[int]) -> Any:
    return [values[i] for i in good] if isinstance(values, list) else values[good]


def _column(values: Any, good: list[int]) -> Any:
    """Returns a column as an array or tensor, ragged if a picture has several captions."""
    values = _picked(values, good)
    if not isinstance(values, list):
        return values
    flat = tf.constant([line for lines in values for line in lines], tf.string)
    if len(flat) == len(values):
        return flat
    return tf.RaggedTensor.from_row_lengths(flat, [len(lines) for lines in values])


def _report(problems: list[str], on_error: Literal["raise", "skip"]) -> None:
    if not problems:
        return
    shown = "; ".join(problems[:5])
    if len(problems) > 5:
        shown += f"; and {len(problems) - 5} more"
    if on_error == "raise":
        raise ValueError(
            "`directory` must hold readable pictures, with captions if `captions` is given; "
            f'`on_error="skip"` leaves out others. Received: {shown}.'
        )
    warnings.warn(f"Left out: {shown}.", stacklevel=4)
