"""A folder of your own pictures as batches for `fit`, with captions or classes if it has them.

    captions=None        pictures/**/*.png ...                    batches x
    captions="txt"       heart.png, and beside it heart.txt       {"images": x, "prompts": ...}
    captions="csv"       captions.csv or metadata.csv with the    {"images": x, "prompts": ...}
                         columns file_name, caption
    captions="jsonl"     captions.jsonl or metadata.jsonl, in   {"images": x, "prompts": ...}
                         each line {"file_name": ..., "caption": ...}
    captions="folders"   cats/1.png, dogs/2.png                   {"images": x, "labels": ...}

PNG, JPEG, WebP, BMP and GIF (its first frame), grey, palette, 16-bit or with transparency, of any
size: a picture is turned as its camera says, put on white where it is transparent, cut (or padded)
to a square around its middle and resized.

All pictures are read once, in threads, and stay in memory as bytes, N x size x size x channels. So
a broken one is known by its path before the training begins, and epochs cost no reading. A folder
may be a stranger's: `kgen.data.picture_files` says what a picture may be, and a link that leads out
of the folder is not followed unless that is asked for. What is
larger than memory wants sharded TFRecord files (README, "From one GPU to many machines").
"""

import concurrent.futures
import functools
import warnings

import numpy as np

from kgen.checks import check_count, check_one_of, check_path
from kgen.data.arrays import VALUES, batches
from kgen.data.caption_tables import MAX_CAPTION_BYTES, captions_of
from kgen.data.picture_files import MAX_PIXELS, Gate, open_picture
from kgen.files.text import read_file

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
CAPTIONS = ("txt", "csv", "jsonl", "folders")
TABLES = {
    "csv": ("captions.csv", "metadata.csv"),
    "jsonl": ("captions.jsonl", "metadata.jsonl"),
}


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
    on_error="raise",
    max_pixels=MAX_PIXELS,
    follow_links=False,
):
    """Returns the pictures of a folder in batches, ready for `model.fit`.

    Args:
        directory: the folder; pictures in folders below it count too, hidden ones do not.
        size: side of the pictures that are returned, in pixels.
        captions: None, `"txt"`, `"csv"`, `"jsonl"` or `"folders"`; see the module.
        channels: 3 for colour, 1 for grey.
        values: `"signed"`, `"unit"` or `"binary"`; see `kgen.data.arrays`.
        batch_size: pictures in a batch, a positive integer.
        shuffle: whether to shuffle anew each epoch.
        seed: integer from which the order follows.
        resize: `"crop"` for the middle square, `"pad"` for the whole picture on white.
        on_error: `"raise"`, or `"skip"` to leave out what is broken or lacks its caption, with a
            warning that names it.
        max_pixels: largest number of pixels of a picture; also of those that are read at once.
        follow_links: whether links may lead out of the folder.

    Returns:
        A `tf.data.Dataset` of known length: float32 `[B, size, size, channels]`, or a dictionary
        of it, `"images"`, and `"prompts"` string `[B]` or `"labels"` int32 `[B]`.

    Raises:
        FileNotFoundError: if there is no such folder, or no table of captions in it.
        TypeError: if a number is none.
        ValueError: if the folder has no picture, a picture is broken or lacks its caption, a
            caption its picture, or an option is none of the above.
    """
    check_one_of("values", values, VALUES)
    check_count("batch_size", batch_size)
    images, columns = load_arrays(
        directory,
        size,
        captions=captions,
        channels=channels,
        resize=resize,
        on_error=on_error,
        max_pixels=max_pixels,
        follow_links=follow_links,
    )
    return batches(
        images, columns, values=values, batch_size=batch_size, shuffle=shuffle, seed=seed
    )


def load_arrays(
    directory,
    size=64,
    *,
    captions=None,
    channels=3,
    resize="crop",
    on_error="raise",
    max_pixels=MAX_PIXELS,
    follow_links=False,
):
    """Returns the pictures of a folder in memory, in the order of their paths.

    Args:
        directory: as of `load`, like all the others.
        size: side of the pictures.
        captions: None, `"txt"`, `"csv"`, `"jsonl"` or `"folders"`.
        channels: 3 or 1.
        resize: `"crop"` or `"pad"`.
        on_error: `"raise"` or `"skip"`.
        max_pixels: largest number of pixels of a picture.
        follow_links: whether links may lead out of the folder.

    Returns:
        uint8 `[N, size, size, channels]`, and a dictionary with `"prompts"`, strings `[N]`, or
        `"labels"`, int32 `[N]`: the place of its folder in `classes(directory)`; or an empty one.

    Raises:
        FileNotFoundError: as of `load`.
        TypeError: as of `load`.
        ValueError: as of `load`.
    """
    check_count("size", size)
    check_count("max_pixels", max_pixels)
    if captions is not None:
        check_one_of("captions", captions, CAPTIONS)
    check_one_of("resize", resize, ("crop", "pad"))
    check_one_of("on_error", on_error, ("raise", "skip"))
    if isinstance(channels, bool) or channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3. Received: channels={channels!r}.")
    directory = _folder(directory)
    paths = _pictures(directory)
    if not follow_links:
        _check_links(directory, paths)
    paths, column, problems = _captioned(directory, paths, captions, follow_links)
    _report(problems, on_error)
    read = functools.partial(
        _read, Gate(max_pixels), max_pixels, size=size, channels=channels, resize=resize
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:
        images = list(pool.map(read, paths))
    _report([image for image in images if isinstance(image, str)], on_error)
    good = [i for i, image in enumerate(images) if not isinstance(image, str)]
    if not good:
        raise ValueError(f"`directory` must hold a picture to use. Received: {directory}.")
    columns = {name: np.array(values)[good] for name, values in column.items()}
    return np.stack([images[i] for i in good]), columns


def classes(directory):
    """The names of the classes of `captions="folders"`: the folders with pictures, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no picture.
    """
    directory = _folder(directory)
    below = [path.relative_to(directory).parts for path in _pictures(directory)]
    return sorted({parts[0] for parts in below if len(parts) > 1})


def _folder(directory):
    path = check_path("directory", directory)
    if not path.is_dir():
        raise FileNotFoundError(f"`directory` must be a folder of pictures. Received: {directory}.")
    return path


def _pictures(directory):
    paths = sorted(
        path
        for path in directory.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(directory, path)
    )
    if not paths:
        raise ValueError(
            f"`directory` must hold pictures ({', '.join(SUFFIXES)}). "
            f"Received: {directory}, which has none."
        )
    return paths


def _hidden(directory, path):
    return any(part.startswith((".", "__")) for part in path.relative_to(directory).parts)


def _check_links(directory, paths):
    root = directory.resolve()
    out = next((path for path in paths if not path.resolve().is_relative_to(root)), None)
    if out is not None:
        raise ValueError(
            f"{out} is a link that leads out of `directory`; `follow_links=True` allows that."
        )


def _captioned(directory, paths, captions, follow_links):
    """The paths that have what is asked for, that as a column, and what is wrong with others."""
    if captions is None:
        return paths, {}, []
    if captions == "folders":
        good = [path for path in paths if path.parent != directory]
        names = classes(directory)
        labels = [names.index(path.relative_to(directory).parts[0]) for path in good]
        alone = [path for path in paths if path.parent == directory]
        problems = [f"{path} is in no folder of a class" for path in alone]
        return good, {"labels": np.array(labels, "int32")}, problems
    if captions == "txt":
        texts = _text_files(directory, paths, follow_links)
    else:
        texts = _table(directory, TABLES[captions], paths, follow_links)
    good, known = [path for path in paths if path in texts], set(paths)
    problems = [f"{path} has no caption" for path in paths if path not in texts]
    problems += [f"the caption of {path} has no picture" for path in texts if path not in known]
    return good, {"prompts": [texts[path] for path in good]}, problems


def _text_files(directory, paths, follow_links):
    """Captions by the path of the picture, from the text files beside them."""
    pictures, texts = {}, {}
    for path in paths:
        pictures.setdefault(path.with_suffix(".txt"), []).append(path)
    files = sorted(p for p in directory.rglob("*.txt") if not _hidden(directory, p))
    if not follow_links:
        _check_links(directory, files)
    for path in files:
        try:
            text = read_file(path, MAX_CAPTION_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} must be text in UTF-8. Received: {error}.") from error
        caption = " ".join(text.split())
        if caption:
            texts.update(dict.fromkeys(pictures.get(path, [path]), caption))
    return texts


def _table(directory, names, paths, follow_links):
    """Captions by the path of the picture, from a table in the folder."""
    table = next((directory / name for name in names if (directory / name).is_file()), None)
    if table is None:
        raise FileNotFoundError(
            f"`directory` must hold {' or '.join(names)}. Received: {directory}."
        )
    if not follow_links:
        _check_links(directory, [table])
    return captions_of(table, directory, paths)


def _read(gate, max_pixels, path, size, channels, resize):
    """The picture as uint8 `[size, size, channels]`, or a string that says what is wrong."""
    try:
        with (
            open_picture(path, max_pixels) as file,
            gate.passed(file.width * file.height),
        ):
            return _resized(file, size, channels, resize)
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        return f"{path} cannot be read: {error}"


def _resized(file, size, channels, resize):
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(file)
    if image.mode == "F":
        raise ValueError("it must have whole numbers, not real ones")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        values = np.asarray(image)
        values = values // 257 if values.max() > 255 else values
        image = Image.fromarray(values.astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image = image if channels == 3 else image.convert("L")
    if resize == "crop":
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    else:
        image = ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color="white")
    return np.asarray(image).reshape(size, size, channels)


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
