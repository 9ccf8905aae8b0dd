"""Pictures for people: labelled contact sheets, picture files and animations.

+--------+--------+
| tile 0 | tile 1 |     row by row, `gap` pixels of grey between and around;
| label  | label  |     a label is wrapped to its tile and cut after three lines
+--------+--------+

A file is of the format that its ending says. What it is to say of itself is in text chunks of a
PNG, and as JSON in the description (EXIF) of a JPEG or WebP and in the comment of a GIF.

References:
  https://www.w3.org/TR/png-3, section 11.3.3 (text chunks) and 11.3.4 (animation).
"""

import csv
import io
import json
import os
import pathlib

import numpy as np

from kgen.checks import check_count, check_interval

GAP = 4
GREY = 236
_FONT_SIZE = 11
_LINES = 3


def contact_sheet(images, labels=None, columns=None, scale=1):
    """Puts pictures side by side on one sheet.

    Args:
        images: uint8 `[N, H, W, 3]`, grey, `[N, H, W, 1]`, or with an alpha channel, `[N, H, W,
            4]`, which is laid on white.
        labels: None, or N strings to write under the pictures.
        columns: pictures in a row; None makes the sheet about square.
        scale: a positive integer: how many pixels of the sheet a pixel becomes, in each direction.

    Returns:
        A uint8 array `[height, width, 3]`.

    Raises:
        TypeError: if a number is none.
        ValueError: if `images` are not such pictures, or another argument does not fit.

    Example:
    >>> contact_sheet(np.zeros((6, 8, 8, 3), "uint8"), columns=3).shape
    (28, 40, 3)
    """
    images = np.asarray(images)
    picture = images.ndim == 4 and images.shape[-1] in (1, 3, 4)
    if not picture or images.dtype != np.uint8 or not images.size:
        raise ValueError(
            "`images` must be uint8 [N, H, W, C] with C 1, 3 or 4. "
            f"Received: shape {images.shape}, dtype {images.dtype}."
        )
    if images.shape[-1] == 1:
        images = images.repeat(3, axis=-1)
    if images.shape[-1] == 4:
        alpha = images[..., 3:] / 255
        images = np.round(alpha * images[..., :3] + (1 - alpha) * 255).astype("uint8")
    columns = int(np.ceil(np.sqrt(len(images)))) if columns is None else columns
    check_count("columns", columns)
    check_count("scale", scale)
    columns = min(columns, len(images))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    num, width = len(tiles), tiles.shape[2]
    captions = np.full((num, 0, width, 3), GREY, "uint8")
    if labels is not None:
        labels = list(labels)
        if len(labels) != num or not all(isinstance(label, str) for label in labels):
            raise ValueError(
                f"`labels` must be one string for each of the {num} images. Received: {labels!r}."
            )
        captions = _captions(labels, width)
    tiles = np.concatenate([tiles, captions], axis=1)
    step = np.array(tiles.shape[1:3]) + GAP
    rows = -(-num // columns)
    sheet = np.full((rows * step[0] + GAP, columns * step[1] + GAP, 3), GREY, "uint8")
    for i, tile in enumerate(tiles):
        top, left = np.array(divmod(i, columns)) * step + GAP
        sheet[top : top + len(tile), left : left + width] = tile
    return sheet


FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".webp": "WEBP"}
ANIMATIONS = {".gif": "GIF", ".png": "PNG", ".apng": "PNG", ".webp": "WEBP"}
DESCRIPTION, SOFTWARE = 0x010E, 0x0131  # EXIF


def save_picture(path, image, metadata=None):
    """Writes a picture in the format that its ending says, and the folders that its path needs.

    PNG and WebP keep every pixel; JPEG has quality 95, and white behind what is transparent. The
    file appears whole or not at all.

    Args:
        path: where to write it, with one of the endings of `FORMATS`.
        image: uint8 `[H, W, C]` with 1, 3 or 4 channels, or a Pillow image, whose mode is kept.
        metadata: None, or a dictionary of strings that the file says of itself.

    Raises:
        TypeError: if `metadata` does not hold strings.
        ValueError: if `image` is not such a picture, or the ending is another.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "grey.png"
        ...     save_picture(path, np.zeros((4, 6, 1), "uint8"), {"prompt": "night"})
        ...     with Image.open(path) as picture:
        ...         picture.size, picture.text["prompt"]
        ((6, 4), 'night')
    """
    _write(path, [image], _format(path, FORMATS), metadata)


def encoded(image, kind, metadata=None):
    """Returns the file of a picture as bytes.

    Args:
        image: as of `save_picture`.
        kind: `"PNG"`, `"JPEG"` or `"WEBP"`.
        metadata: as of `save_picture`.

    Raises:
        TypeError: if `metadata` does not hold strings.
        ValueError: if `image` is not such a picture.
    """
    return _encoded([image], kind, metadata)


def save_png(path, image):
    """Writes a picture as `save_picture` does; without an ending of its `FORMATS` as PNG.

    Args:
        path: where to write it.
        image: uint8 `[H, W, C]` with 1, 3 or 4 channels.

    Raises:
        ValueError: if `image` is not such a picture.
    """
    _write(path, [image], FORMATS.get(pathlib.Path(path).suffix.lower(), "PNG"), None)


def save_animation(path, frames, *, seconds=0.1, last=1.0, metadata=None):
    """Writes an animation that repeats, as GIF, animated PNG or animated WebP by the ending.

    Args:
        path: where to write it, with one of the endings of `ANIMATIONS`.
        frames: uint8 `[N, H, W, C]` with 1, 3 or 4 channels.
        seconds: how long a frame is shown.
        last: how long the last one is shown.
        metadata: as of `save_picture`.

    Raises:
        TypeError: if `metadata` does not hold strings.
        ValueError: if `frames` are not such pictures, the ending is another, or a time is out of
            range.
    """
    for name, value in (("seconds", seconds), ("last", last)):
        check_interval(name, value, "(0, 60]")
    frames = list(frames)
    if not frames:
        raise ValueError("`frames` must be at least one picture. Received: none.")
    times = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * last)]
    _write(path, frames, _format(path, ANIMATIONS), metadata, times)


def _format(path, formats):
    ending = pathlib.Path(path).suffix.lower()
    if ending not in formats:
        raise ValueError(f"`path` must end in one of {sorted(formats)}. Received: {path}.")
    return formats[ending]


def _encoded(images, kind, metadata, times=None):
    from PIL import Image

    pictures = [_as_pillow(image, kind) for image in images]
    metadata = {} if metadata is None else dict(metadata)
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise TypeError(f"`metadata` must hold strings. Received: metadata={metadata!r}.")
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    if times is not None:
        options |= {"save_all": True, "append_images": pictures[1:], "duration": times, "loop": 0}
    if metadata and kind == "PNG":
        options["pnginfo"] = _chunks(metadata)
    elif metadata and kind == "GIF":
        options["comment"] = json.dumps(metadata).encode()
    elif metadata:
        exif = Image.Exif()
        exif[DESCRIPTION] = json.dumps(metadata)
        exif[SOFTWARE] = metadata.get("Software", "kgen")
        options["exif"] = exif
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind, **options)
    return buffer.getvalue()


def _write(path, images, kind, metadata, times=None):
    data = _encoded(images, kind, metadata, times)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _as_pillow(image, kind):
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or image.dtype != np.uint8:
        raise ValueError(
            "`image` must be uint8 [H, W, C] with 1, 3 or 4 channels. "
            f"Received: shape {image.shape}, dtype {image.dtype}."
        )
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if kind == "JPEG" and picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    return picture


def _chunks(metadata):
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    for name, text in metadata.items():
        chunks.add_itxt(name, text) if not text.isascii() else chunks.add_text(name, text)
    return chunks


def training_curves(path, log, names=None):
    """Draws the columns of a log of `keras.callbacks.CSVLogger` against the epochs.

    Args:
        path: where to write the PNG file.
        log: the CSV file.
        names: which columns; None means all that have numbers.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    if names is None:
        # The log has a "val_" column for each name, "NA" where nothing was validated.
        names = [name for name in rows[0] if name != "epoch" and rows[0][name] not in ("", "NA")]
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 2.6), squeeze=False)
    for axis, name in zip(axes[0], names):
        axis.plot(epochs, [float(row[name]) for row in rows])
        axis.set(title=name, xlabel="epoch")
    figure.tight_layout()
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _captions(labels, width):
    """The labels as pictures `[N, lines * line height, width, 3]`, all of one height."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    texts = [_wrapped(label, width, font.getlength) for label in labels]
    line = sum(font.getmetrics())
    height = max(map(len, texts)) * line
    captions = np.full((len(labels), height, width, 3), GREY, "uint8")
    for caption, lines in zip(captions, texts):
        if lines:
            picture = Image.fromarray(caption)
            draw = ImageDraw.Draw(picture)
            for i, text in enumerate(lines):
                draw.text((0, i * line), text, fill=(0, 0, 0), font=font)
            caption[:] = np.asarray(picture)
    return captions


def _wrapped(label, width, length):
    """The words of a label in lines no longer than `width`; what does not fit ends in dots."""
    lines = []
    for word in label.split():
        if lines and length(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [lines[_LINES - 1] + "..."]
    return [_cut(line, width, length) for line in lines]


def _cut(line, width, length):
    if length(line) <= width:
        return line
    line = line.removesuffix("...")
    while line and length(line + "...") > width:
        line = line[:-1]
    return line + "..." if line else ""
