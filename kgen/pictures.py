"""Labelled contact sheets, picture files with metadata, and animations.

+--------+--------+
| tile 0 | tile 1 |     row by row, `GAP` pixels of grey between and around;
| label  | label  |     a label is wrapped to the width of its tile and cut after three lines
+--------+--------+

The suffix of a path determines the format of the file. Metadata is stored in text chunks of a PNG,
as JSON in the EXIF description of a JPEG or WebP, and as JSON in the comment of a GIF.

References:
  https://www.w3.org/TR/png-3, section 11.3.3 (text chunks) and 11.3.4 (animation).
"""

import csv
import io
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kgen.checks import check_count, check_interval
from kgen.types import Path

if TYPE_CHECKING:
    from PIL import Image, PngImagePlugin

GAP = 4
GREY = 236
_FONT_SIZE = 11
_LINES = 3


def contact_sheet(
    images: np.ndarray,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    scale: int = 1,
) -> np.ndarray:
    """Arranges pictures in rows and columns on one sheet.

    Args:
        images: uint8 `[N, H, W, 3]`; or grey, `[N, H, W, 1]`; or with an alpha channel,
            `[N, H, W, 4]`, composited on white.
        labels: None, or N strings to write below the pictures.
        columns: pictures per row; None makes the sheet about square.
        scale: a positive integer, by which each picture is enlarged in both directions.

    Returns:
        A uint8 array `[height, width, 3]`.

    Raises:
        TypeError: if `columns` or `scale` is not a number.
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


def save_picture(
    path: Path, image: "np.ndarray | Image.Image", metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a picture in the format of the path's suffix, and creates missing folders.

    PNG and WebP are lossless; JPEG has quality 95, and transparent pixels become white. The file is
    written in one step, so that a partial file is never visible.

    Args:
        path: the file to write, with one of the suffixes in `FORMATS`.
        image: uint8 `[H, W, C]` with 1, 3 or 4 channels, or a Pillow image, whose mode is kept.
        metadata: None, or a dictionary of strings to store in the file.

    Raises:
        TypeError: if `metadata` does not hold strings.
        ValueError: if `image` is not such a picture, or the path has another suffix.

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


def encoded(image: np.ndarray, kind: str, metadata: Mapping[str, str] | None = None) -> bytes:
    """Returns a picture as the bytes of a file.

    Args:
        image: uint8 `[H, W, C]` with 1, 3 or 4 channels.
        kind: `"PNG"`, `"JPEG"` or `"WEBP"`.
        metadata: strings by name, as of `save_picture`.

    Raises:
        TypeError: if `metadata` does not hold strings.
        ValueError: if `image` is not such a picture.
    """
    return _encoded([image], kind, metadata)


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes a picture as `save_picture` does, as PNG if the suffix is not in `FORMATS`.

    Args:
        path: the file to write.
        image: uint8 `[H, W, C]` with 1, 3 or 4 channels.

    Raises:
        ValueError: if `image` is not such a picture.
    """
    _write(path, [image], FORMATS.get(pathlib.Path(path).suffix.lower(), "PNG"), None)


def save_animation(
    path: Path,
    frames: np.ndarray | Sequence[np.ndarray],
    *,
    seconds: float = 0.1,
    last: float = 1.0,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a looping animation: GIF, animated PNG or animated WebP, by the path's suffix.

    Args:
        path: the file to write, with one of the suffixes in `ANIMATIONS`.
        frames: uint8 `[N, H, W, C]` with 1, 3 or 4 channels.
        seconds: duration of a frame, at most 60 seconds.
        last: duration of the last frame, at most 60 seconds.
        metadata: see `save_picture`.

    Raises:
        TypeError: if `metadata` does not hold strings.
        ValueError: if `frames` are not such pictures, the path has another suffix, or a duration is
            out of range.
    """
    for name, value in (("seconds", seconds), ("last", last)):
        check_interval(name, value, "(0, 60]")
    frames = list(frames)
    if not frames:
        raise ValueError("`frames` must have at least one picture. Received: an empty sequence.")
    times = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * last)]
    _write(path, frames, _format(path, ANIMATIONS), metadata, times)


def _format(path: Path, formats: Mapping[str, str]) -> str:
    ending = pathlib.Path(path).suffix.lower()
    if ending not in formats:
        raise ValueError(f"`path` must end in one of {sorted(formats)}. Received: {path}.")
    return formats[ending]


def _encoded(
    images: Sequence,
    kind: str,
    metadata: Mapping[str, str] | None,
    times: list[int] | None = None,
) -> bytes:
    from PIL import Image

    pictures = [_as_pillow(image, kind) for image in images]
    metadata = {} if metadata is None else dict(metadata)
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise TypeError(f"`metadata` must hold strings. Received: metadata={metadata!r}.")
    options: dict[str, Any] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
    }.get(kind, {})
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


def _write(
    path: Path,
    images: Sequence,
    kind: str,
    metadata: Mapping[str, str] | None,
    times: list[int] | None = None,
) -> None:
    data = _encoded(images, kind, metadata, times)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _as_pillow(image: "np.ndarray | Image.Image", kind: str) -> "Image.Image":
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


def _chunks(metadata: Mapping[str, str]) -> "PngImagePlugin.PngInfo":
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    for name, text in metadata.items():
        chunks.add_itxt(name, text) if not text.isascii() else chunks.add_text(name, text)
    return chunks


def training_curves(path: Path, log: Path, names: Sequence[str] | None = None) -> None:
    """Plots the columns of a log of `keras.callbacks.CSVLogger` against the epoch.

    Args:
        path: the PNG file to write.
        log: the CSV file to read.
        names: names of the columns; None for all columns that have numbers.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    if names is None:
        # The log has a "val_" column for each name, "NA" without validation data.
        names = [name for name in rows[0] if name != "epoch" and rows[0][name] not in ("", "NA")]
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 2.6), squeeze=False)
    for axis, name in zip(axes[0], names):
        axis.plot(epochs, [float(row[name]) for row in rows])
        axis.set(title=name, xlabel="epoch")
    figure.tight_layout()
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _captions(labels: list[str], width: int) -> np.ndarray:
    """Renders the labels as pictures of equal height, `[N, lines * line height, width, 3]`."""
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


def _wrapped(label: str, width: int, length: Callable[[str], float]) -> list[str]:
    """Wraps a label to lines of at most `width` pixels; text that does not fit ends in dots."""
    lines = []
    for word in label.split():
        if lines and length(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [lines[_LINES - 1] + "..."]
    return [_cut(line, width, length) for line in lines]


def _cut(line: str, width: int, length: Callable[[str], float]) -> str:
    if length(line) <= width:
        return line
    line = line.removesuffix("...")
    while line and length(line + "...") > width:
        line = line[:-1]
    return line + "..." if line else ""
