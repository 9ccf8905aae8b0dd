"""Decoding of picture files to arrays of a given size.

A picture is rotated by its EXIF orientation, composited on white (or its transparency is kept as a
fourth channel), cropped or padded at its centre to the aspect ratio, and resized. Grey levels of 16
bits are divided by 257; 32-bit numbers are accepted as grey levels up to 255 only, since the file
does not define which number is white.
"""

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from kgen.data.folder.finding import Entry
from kgen.data.picture_files import Gate, open_picture

if TYPE_CHECKING:
    from PIL import Image

BAR_FROM = 1000  # pictures whose reading has a progress bar
_AT_ONCE = 256  # pictures that are waited for


class Reader:
    """Reads pictures as uint8 arrays `[H, W, C]`.

    Args:
        size: `(height, width)`.
        channels: 1 for grey, 3 for colour, 4 for colour and opacity.
        resize: `"crop"` or `"pad"`.
        max_pixels: largest number of pixels of a picture, and of those that are read at once.
    """

    def __init__(self, size: tuple[int, int], channels: int, resize: str, max_pixels: int) -> None:
        self.shape = (*size, channels)
        self._resize = resize
        self._max_pixels = max_pixels
        self._gate = Gate(max_pixels)

    def __call__(self, entry: Entry) -> np.ndarray | str:
        """Returns the picture of a `finding.Entry`, or a string that describes the problem."""
        try:
            with (
                open_picture(entry.path, self._max_pixels, entry.offset, entry.size) as file,
                self._gate.passed(file.width * file.height),
            ):
                return self._resized(file)
        except Exception as error:  # a broken file can make Pillow raise nearly anything
            return f"{entry.place} cannot be read: {error}"

    def all(self, entries: Sequence[Entry], progress: bool = True) -> Iterator[np.ndarray | str]:
        """Yields the arrays, or strings, of all entries in order; reads them in threads."""
        bar = None
        if progress and len(entries) >= BAR_FROM:
            bar = keras.utils.Progbar(len(entries), unit_name="picture")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for start in range(0, len(entries), _AT_ONCE):
                part = entries[start : start + _AT_ONCE]
                yield from pool.map(self, part)
                if bar is not None:
                    bar.add(len(part))

    def _resized(self, file: "Image.Image") -> np.ndarray:
        from PIL import Image, ImageOps

        height, width, channels = self.shape
        image = _eight_bits(ImageOps.exif_transpose(file), file.format)
        if channels == 4:
            image = image.convert("RGBA")
        else:
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
            image = image if channels == 3 else image.convert("L")
        if self._resize == "crop":
            image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        else:
            white = (255, 255, 255, 0) if channels == 4 else "white"
            image = ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS, color=white)
        return np.asarray(image).reshape(self.shape)


def _eight_bits(image: "Image.Image", file_format: str | None) -> "Image.Image":
    """Converts a picture of grey levels of more than 8 bits to 8 bits; returns others unchanged."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its grey levels must be integers, not floating-point numbers")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    # Older versions of Pillow give the 16 bits of a PNG as 32.
    if image.mode.startswith("I;16") or file_format == "PNG":
        values = values // 257
    elif values.min() < 0 or values.max() > 255:
        raise ValueError(
            f"its 32-bit numbers, from {values.min()} to {values.max()}, must be in 0..255: save "
            "it with 8 or 16 bits"
        )
    return Image.fromarray(values.astype("uint8"))
