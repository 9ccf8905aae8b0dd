"""Resizing a picture of any size for a model, and the edited picture back to the original size.

A picture is rotated by its EXIF orientation, and its alpha channel is separated. `fitted` pads it
to the aspect ratio of the model's pictures by repeating its edges, and resizes it (Lanczos).
`put_back` resizes the edited picture, crops the padding, restores the pixels that a mask keeps, and
adds the alpha channel. `in_mode` converts the result to the original mode, if the file format
supports it.
"""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MODES = {  # modes of Pillow that a format supports
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "JPEG": ("L", "CMYK", "RGB"),
    "WEBP": ("RGB", "RGBA"),
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """An original picture: its pixels, its alpha channel and its mode.

    Attributes:
        pixels: uint8 `[H, W, 3]`.
        alpha: None, or uint8 `[H, W]`.
        mode: its mode in Pillow.
    """

    pixels: object
    alpha: object
    mode: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[:2]


def upright(file: "Image.Image") -> Picture:
    """Returns a Pillow image of any mode as a `Picture`, rotated by its EXIF orientation."""
    import numpy as np
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(file)
    mode = image.mode
    if mode == "F" or mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        values = np.asarray(image).astype("float64")
        scale = 257 if values.max() > 255 else 1
        image = Image.fromarray((values / scale).round().clip(0, 255).astype("uint8"))
        mode = "L"
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image)[..., 3]
    return Picture(np.asarray(image.convert("RGB")), alpha, mode)


def brightness(picture: Picture, size: tuple[int, int]) -> "np.ndarray":
    """Returns the brightness of a `Picture`, resized to a size, float32 `[H, W]` in [0, 1]."""
    import numpy as np
    from PIL import Image

    grey = Image.fromarray(picture.pixels).convert("L")
    if grey.size != size[::-1]:
        grey = grey.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(grey).astype("float32") / 255


def fitted(pixels: "np.ndarray", shape: tuple[int, ...]) -> "np.ndarray":
    """Pads pixels `[H, W, C]` by repeating the edges, and resizes them to the shape `(h, w, c)`."""
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2]
    top, left, square = _frame(height, width, shape)
    bottom, right = square[0] - height - top, square[1] - width - left
    padded = np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")
    image = Image.fromarray(padded).convert({1: "L", 3: "RGB", 4: "RGBA"}[shape[-1]])
    if image.size != (shape[1], shape[0]):
        image = image.resize((shape[1], shape[0]), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(shape)


def mask_for(mask: "np.ndarray", shape: tuple[int, ...]) -> "np.ndarray":
    """Resizes a mask `[H, W]` to `[h, w, 1]`; a value is 1 if any part of its pixel is masked."""
    import numpy as np

    large = np.repeat((mask > 0)[..., None], 3, axis=-1).astype("uint8") * 255
    return (fitted(large, (*shape[:2], 3))[..., :1] > 0).astype("float32")


def put_back(
    edited: "np.ndarray", picture: Picture, mask: "np.ndarray | None" = None
) -> "np.ndarray":
    """Resizes an edited picture to the size of the original.

    Args:
        edited: the edited picture, uint8 `[h, w, c]`.
        picture: the original `Picture`, of size `(H, W)`.
        mask: None, or float32 `[H, W]` in [0, 1]; where it is 0, the original pixels are kept.

    Returns:
        uint8 `[H, W, 3]`, or `[H, W, 4]` if the original has an alpha channel.
    """
    import numpy as np
    from PIL import Image

    height, width = picture.size
    top, left, frame = _frame(height, width, edited.shape)
    image = Image.fromarray(edited[..., 0] if edited.shape[-1] == 1 else edited).convert("RGB")
    if image.size != frame[::-1]:
        image = image.resize(frame[::-1], Image.Resampling.LANCZOS)
    pixels = np.asarray(image)[top : top + height, left : left + width]
    if mask is not None:
        weight = mask[..., None]
        pixels = np.round(weight * pixels + (1 - weight) * picture.pixels).astype("uint8")
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[..., None]], axis=-1)
    return pixels


def in_mode(pixels: "np.ndarray", mode: str, kind: str) -> "Image.Image":
    """Converts pixels to a Pillow image of a mode, or of a similar one that a format supports.

    Args:
        pixels: uint8 `[H, W, 3 or 4]`.
        mode: a mode of Pillow.
        kind: the format, a key of `MODES`.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    mode = mode if mode in MODES[kind] else image.mode
    if mode == "P":
        method = "FASTOCTREE" if image.mode == "RGBA" else "MEDIANCUT"
        return image.quantize(256, method=Image.Quantize[method])
    if image.mode == "RGBA" and mode in ("1", "L", "RGB"):
        mode = "LA" if mode != "RGB" and "LA" in MODES[kind] else "RGBA"
    if mode not in MODES[kind]:
        mode = "RGB"
    return image if image.mode == mode else image.convert(mode)


def _frame(height: int, width: int, shape: tuple[int, ...]) -> tuple:
    """Returns top, left and size of the padded picture that has the aspect ratio of a shape."""
    ratio = shape[0] / shape[1]
    frame = max(height, round(width * ratio)), max(width, round(height / ratio))
    return (frame[0] - height) // 2, (frame[1] - width) // 2, frame
