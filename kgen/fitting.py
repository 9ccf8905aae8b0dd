"""Any picture fitted to a model, and put back.

A picture is turned as its camera says, and its colours are parted from its alpha channel. To fit,
its edges are repeated until it has the proportions of the model's pictures, and it is resized
(Lanczos). To put back, the edit is resized, the added edges are cut off, and what a mask keeps is
taken from the picture as it was. It has its alpha channel and its mode again, where the format of
the file can hold that mode.
"""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MODES = {  # what the formats can hold
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "JPEG": ("L", "CMYK", "RGB"),
    "WEBP": ("RGB", "RGBA"),
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as it was, and what an edit needs of it.

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
    """Returns a Pillow image of any mode as a `Picture`, turned as its camera says."""
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
    """Returns a mask of a size, float32 `[H, W]` in [0, 1]: how bright a `Picture` is."""
    import numpy as np
    from PIL import Image

    grey = Image.fromarray(picture.pixels).convert("L")
    if grey.size != size[::-1]:
        grey = grey.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(grey).astype("float32") / 255


def fitted(pixels: "np.ndarray", shape: tuple[int, ...]) -> "np.ndarray":
    """Returns pixels `[H, W, C]` in the shape `(h, w, c)`, the edges repeated where they lack."""
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
    """Returns a mask `[H, W]` as `[h, w, 1]` of a model: 1 where any of it is to be painted."""
    import numpy as np

    large = np.repeat((mask > 0)[..., None], 3, axis=-1).astype("uint8") * 255
    return (fitted(large, (*shape[:2], 3))[..., :1] > 0).astype("float32")


def put_back(
    edited: "np.ndarray", picture: Picture, mask: "np.ndarray | None" = None
) -> "np.ndarray":
    """Returns an edited picture `[h, w, c]` at the size of the one that it was, `[H, W, 3 or 4]`.

    Args:
        edited: uint8.
        picture: the `Picture`.
        mask: None, or float32 `[H, W]`: where it is 0, the picture is kept to the pixel.
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
    """Returns pixels `[H, W, 3 or 4]` as a Pillow image of a mode, where `kind` can hold it."""
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
    """Where a picture lies in the frame of the shape's proportions: top, left and the frame."""
    ratio = shape[0] / shape[1]
    frame = max(height, round(width * ratio)), max(width, round(height / ratio))
    return (frame[0] - height) // 2, (frame[1] - width) // 2, frame
