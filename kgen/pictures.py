"""Pictures for people: labelled contact sheets and PNG files.

+--------+--------+
| tile 0 | tile 1 |     row by row, `gap` pixels of grey between and around;
| label  | label  |     a label is wrapped to its tile and cut after three lines
+--------+--------+
"""

import csv
import pathlib

import numpy as np
import tensorflow as tf

from kgen.checks import check_count

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


def save_png(path, image):
    """Writes a picture as a PNG file, and the folders that its path needs.

    Args:
        path: where to write it.
        image: uint8 `[H, W, C]` with 1, 3 or 4 channels.

    Raises:
        ValueError: if `image` is not such a picture.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or image.dtype != np.uint8:
        raise ValueError(
            "`image` must be uint8 [H, W, C] with 1, 3 or 4 channels. "
            f"Received: shape {image.shape}, dtype {image.dtype}."
        )
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(image).numpy())


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
