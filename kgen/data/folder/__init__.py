"""A folder of your own pictures as batches for `fit`, with captions or classes if it has them.

    captions=None          pictures/**/*.png ...                   batches x
    captions="txt"         heart.png, and beside it heart.txt      {"images": x, "prompts": ...}
    captions="csv"         captions.csv or metadata.csv with the   {"images": x, "prompts": ...}
                           columns file_name, caption
    captions="jsonl"       metadata.jsonl, the layout of Hugging   {"images": x, "prompts": ...}
                           Face: {"file_name": ..., "text": ...}
    captions="folders"     cats/1.png, dogs/2.png                  {"images": x, "labels": ...}
    captions="webdataset"  *.tar, examples by the names in them    as the archives have captions,
    captions="tfrecord"    *.tfrecord, records of tf.train.Example classes or neither

AVIF (where Pillow has it), BMP, GIF (its first frame), JPEG, PNG, TIFF and WebP, grey, palette,
16-bit or with transparency, of any size: a picture is turned as its camera says, put on white where
it is transparent, cut (or padded) to the shape around its middle and resized. Pictures in other
formats (HEIC, JPEG XL and more) are named in a warning. A picture with several captions, the lines
of its text or rows of a table, has one of them by chance, anew each epoch.

All pictures are read once, in threads, so a broken one is known by its path before the training
begins. Small sets stay in memory as bytes, N x H x W x channels, and epochs cost no reading; larger
ones are read again from their files when a batch is due. A folder may be a stranger's:
`kgen.data.picture_files` says what a picture may be, and a link that leads out of the folder is not
followed unless that is asked for.
"""

import math
import os
import warnings

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_interval, check_one_of
from kgen.data.arrays import VALUES, batches, batches_of
from kgen.data.folder.captions import captioned, class_names
from kgen.data.folder.decoding import Reader
from kgen.data.folder.finding import SUFFIXES, Entry, find, part_of, unread_message
from kgen.data.folder.shards import examples
from kgen.data.folder.streaming import reading
from kgen.data.picture_files import MAX_PIXELS

__all__ = ["classes", "load", "load_arrays"]

CAPTIONS = ("txt", "csv", "jsonl", "folders", "webdataset", "tfrecord")
SPLITS = ("train", "validation", "all")
MAX_BYTES_IN_MEMORY = 256 * 2**20  # of pictures, where nothing else is asked for


def load(
    directory,
    size=64,
    *,
    captions=None,
    channels=3,
    values="signed",
    batch_size=32,
    shuffle=True,
    seed=0,
    resize="crop",
    split="all",
    validation=0.1,
    in_memory=None,
    on_error="raise",
    max_pixels=MAX_PIXELS,
    follow_links=False,
    progress=True,
) -> tf.data.Dataset:
    """Returns the pictures of a folder in batches, ready for `model.fit`.

    Args:
        directory: the folder; pictures in folders below it count too, hidden ones do not.
        size: side of the pictures that are returned, in pixels, or `(height, width)`.
        captions: None or one of `CAPTIONS`; see the module.
        channels: 3 for colour, 1 for grey, 4 for colour and opacity.
        values: `"signed"`, `"unit"` or `"binary"`; see `kgen.data.arrays`.
        batch_size: pictures in a batch, a positive integer.
        shuffle: whether to shuffle anew each epoch.
        seed: integer from which the order, and captions where there are several, follow.
        resize: `"crop"` for the middle of the picture, `"pad"` for all of it on white.
        split: `"all"`, or `"train"` or `"validation"` for one of two parts that share no picture.
        validation: about the fraction of the second; which one a picture is in follows from its
            name, so it stays there when pictures come or go.
        in_memory: whether pictures stay in memory; None for those of at most 256 MB.
        on_error: `"raise"`, or `"skip"` to leave out what is broken or lacks its caption, with a
            warning that names it.
        max_pixels: largest number of pixels of a picture; also of those that are read at once.
        follow_links: whether links may lead out of the folder.
        progress: whether the first reading of 1000 pictures or more has a progress bar.

    Returns:
        A `tf.data.Dataset` of known length: float32 `[B, H, W, channels]`, or a dictionary of it,
        `"images"`, and `"prompts"` string `[B]` or `"labels"` int32 `[B]`.

    Raises:
        FileNotFoundError: if there is no such folder, or no table of captions or archive in it.
        TypeError: if a number is none.
        ValueError: if the folder has no picture, a picture is broken or lacks its caption, a
            caption its picture, or an option is none of the above.

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
    directory,
    size=64,
    *,
    captions=None,
    channels=3,
    resize="crop",
    split="all",
    validation=0.1,
    on_error="raise",
    max_pixels=MAX_PIXELS,
    follow_links=False,
    progress=True,
) -> tuple:
    """Returns the pictures of a folder in memory, in the order of their paths.

    Args:
        directory: as of `load`, like all the others.
        size: side of the pictures, or `(height, width)`.
        captions: None or one of `CAPTIONS`.
        channels: 1, 3 or 4.
        resize: `"crop"` or `"pad"`.
        split: `"train"`, `"validation"` or `"all"`.
        validation: about the fraction of the second part.
        on_error: `"raise"` or `"skip"`.
        max_pixels: largest number of pixels of a picture.
        follow_links: whether links may lead out of the folder.
        progress: whether there is a progress bar.

    Returns:
        uint8 `[N, H, W, channels]`, and a dictionary with `"prompts"`, strings `[N]`, or where a
        picture has several a `tf.RaggedTensor` `[N, None]`; or with `"labels"`, int32 `[N]`: the
        place of its folder in `classes(directory)`; or an empty one.

    Raises:
        FileNotFoundError: as of `load`.
        TypeError: as of `load`.
        ValueError: as of `load`.
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


def classes(directory, follow_links: bool = False) -> list:
    """The names of the classes of `captions="folders"`: the folders with pictures, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no picture.
    """
    return class_names(_with_pictures(find(directory, follow_links), directory))


def _prepared(
    directory, size, captions, channels, resize, split, validation, on_error, max_pixels, links
):
    """Where the pictures are, what they have, and what reads them; all options are checked."""
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
        good = [
            i
            for i, entry in enumerate(entries)
            if part_of(_origin(entry, found), validation) == split
        ]
        entries = [entries[i] for i in good]
        column = {name: _picked(values, good) for name, values in column.items()}
        if not entries:
            raise ValueError(
                f"`split` must leave a picture: with validation={validation} none of the "
                f'{len(found.pictures)} is in this part. Received: split="{split}".'
            )
    return entries, column, read


def _origin(entry, found):
    """The name of the file that a picture is, which is another one where links lead to it."""
    if entry.size is not None:
        return entry.name
    real, root = os.path.realpath(entry.path), os.path.realpath(found.root)
    return os.path.relpath(real, root).replace(os.sep, "/") if real.startswith(root) else real


def _with_pictures(found, directory):
    if found.pictures:
        return found
    others = [text for text in (unread_message(found), *found.problems[:5]) if text]
    if found.shards:
        others.append('archives are read with `captions="webdataset"` or `"tfrecord"`')
    raise ValueError(
        f"`directory` must hold pictures ({', '.join(SUFFIXES)}). Received: {directory}, which has "
        f"none{''.join(f'; {text}' for text in others)}."
    )


def _read_all(entries, read, on_error, directory, progress, keep):
    """All pictures, or None where they are not kept, and the numbers of those that are whole."""
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
        raise ValueError(f"`directory` must hold a picture to use. Received: {directory}.")
    return (images[: len(good)] if keep else None), good


def _picked(values, good):
    return [values[i] for i in good] if isinstance(values, list) else values[good]


def _column(values, good):
    """A column as a tensor or array, ragged where a picture has several captions."""
    values = _picked(values, good)
    if not isinstance(values, list):
        return values
    flat = tf.constant([line for lines in values for line in lines], tf.string)
    if len(flat) == len(values):
        return flat
    return tf.RaggedTensor.from_row_lengths(flat, [len(lines) for lines in values])


def _report(problems, on_error):
    if not problems:
        return
    shown = "; ".join(problems[:5])
    if len(problems) > 5:
        shown += f"; and {len(problems) - 5} more"
    if on_error == "raise":
        raise ValueError(
            "`directory` must hold whole pictures, with the captions that are asked for; "
            f'`on_error="skip"` leaves out others. Received: {shown}.'
        )
    warnings.warn(f"Left out: {shown}.", stacklevel=4)
