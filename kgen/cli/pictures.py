"""Reading the picture files that a command edits."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from kgen.cli.errors import CommandError, UsageError, one_line

if TYPE_CHECKING:
    import numpy as np

    from kgen.fitting import Picture


def open_upright(path: pathlib.Path) -> Picture:
    """Opens a picture file of any supported format and rotates it as its EXIF data say.

    Raises:
        CommandError: if the file cannot be read as a picture.
        UsageError: if the file does not exist.
    """
    from kgen.data.picture_files import open_picture
    from kgen.fitting import upright

    if not path.is_file():
        raise UsageError(f"no file {path}")
    try:
        with open_picture(path) as file:
            return upright(file)
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise CommandError(f"{path} cannot be read as a picture: {one_line(error)}") from error


def open_mask(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    """Opens a mask and resizes it.

    Args:
        path: a picture file, white where to paint and black where to keep the picture.
        size: height and width of the mask.

    Returns:
        float32 `[H, W]` in [0, 1], 1 where to paint.

    Raises:
        CommandError: if the file cannot be read as a picture.
        UsageError: if the file does not exist, or all of it is black.
    """
    from kgen.fitting import brightness

    mask = brightness(open_upright(path), size)
    if not mask.any():
        raise UsageError(f"{path} is black everywhere, so there is nothing to paint")
    return mask
