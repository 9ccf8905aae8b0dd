"""Operations on pictures with a white background: hue shifts, cropping, resizing, arranging.

A picture is a uint8 array `[H, W, 3]`. Objects are arranged without overlap, so no mask is needed:
each is cropped to its bounding box, resized to fit into its place, and combined with the canvas by

    canvas = min(canvas, object).
"""

from collections.abc import Sequence

import numpy as np

WHITE = 255
# A pixel is not background if one of its channels is below this value; edges are antialiased.
_DRAWN_BELOW = 250
# Places of 1 to 4 objects, (top, left, bottom, right) as fractions of the side.
GRIDS = {
    1: ((0.14, 0.14, 0.86, 0.86),),
    2: ((0.27, 0.03, 0.73, 0.475), (0.27, 0.525, 0.73, 0.97)),
    3: ((0.04, 0.28, 0.48, 0.72), (0.52, 0.04, 0.96, 0.48), (0.52, 0.52, 0.96, 0.96)),
    4: (
        (0.04, 0.04, 0.48, 0.48),
        (0.04, 0.52, 0.48, 0.96),
        (0.52, 0.04, 0.96, 0.48),
        (0.52, 0.52, 0.96, 0.96),
    ),
}


def turn_hue(picture: np.ndarray, hue: float, target: float) -> np.ndarray:
    """Shifts the hues of a picture by `target - hue`, at the same saturation and value in HSV.

    Args:
        picture: uint8 array `[H, W, 3]`.
        hue: the hue in [0, 1) to replace, where 0 is red and 1/3 green.
        target: the hue that replaces it.

    Returns:
        uint8 array `[H, W, 3]`.

    Example:
    >>> turn_hue(np.array([[[200, 0, 0]]], "uint8"), 0.0, 1 / 3).tolist()
    [[[0, 200, 0]]]
    """
    rgb = np.asarray(picture, "float32")
    value, chroma = rgb.max(axis=-1), np.ptp(rgb, axis=-1)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    safe = np.where(chroma > 0, chroma, 1.0)
    sector = np.select(
        [value == red, value == green],
        [(green - blue) / safe, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    sector = sector + np.float32(6 * (target - hue))
    # f(n) = v - c max(0, min(k, 4 - k, 1)) with k = (n + sector) mod 6, for n = 5, 3, 1.
    k = (np.array([5, 3, 1], "float32") + sector[..., None]) % 6
    turned = value[..., None] - chroma[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1)
    return np.rint(turned).astype("uint8")


def trim(picture: np.ndarray) -> np.ndarray:
    """Crops a picture to the bounding box of its pixels that are not white.

    Args:
        picture: uint8 array `[H, W, 3]`.

    Returns:
        uint8 array `[h, w, 3]`, a view.

    Raises:
        ValueError: if the picture is white.
    """
    drawn = np.asarray(picture).min(axis=-1) < _DRAWN_BELOW
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not len(rows):
        raise ValueError("`picture` must not be all white. Received: a white picture.")
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a picture to the largest size of its aspect ratio within `height` and `width`.

    Args:
        picture: uint8 array `[H, W, 3]`.
        height: largest height in pixels, at least 1.
        width: largest width in pixels, at least 1.

    Returns:
        uint8 array `[h, w, 3]` with `h <= height` and `w <= width`, one of them equal.
    """
    from PIL import Image

    scale = min(height / picture.shape[0], width / picture.shape[1])
    size = [max(1, round(scale * side)) for side in picture.shape[1::-1]]
    resized = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized)


def arrange(pictures: Sequence[np.ndarray], places: Sequence[tuple], size: int) -> np.ndarray:
    """Arranges pictures on a white canvas, each cropped, resized and centred in its place.

    Args:
        pictures: sequence of uint8 arrays `[H, W, 3]`.
        places: a place per picture, `(top, left, bottom, right)` as fractions of `size`.
        size: side of the canvas in pixels.

    Returns:
        uint8 array `[size, size, 3]`.

    Raises:
        ValueError: if there are not as many pictures as places, or a picture is white.
    """
    if len(pictures) != len(places):
        raise ValueError(
            "`pictures` and `places` must have equal lengths. "
            f"Received: {len(pictures)} pictures, {len(places)} places."
        )
    canvas = np.full((size, size, 3), WHITE, "uint8")
    for picture, place in zip(pictures, places):
        top, left, bottom, right = (round(edge * size) for edge in place)
        fitted = fit(trim(picture), bottom - top, right - left)
        height, width = fitted.shape[:2]
        top += (bottom - top - height) // 2
        left += (right - left - width) // 2
        window = canvas[top : top + height, left : left + width]
        np.minimum(window, fitted, out=window)
    return canvas


def inside(places: Sequence[tuple], frame: tuple) -> list[tuple]:
    """Converts places relative to a frame to places on the canvas; the frame is a place too."""
    top, left, bottom, right = frame
    height, width = bottom - top, right - left
    return [
        (top + a * height, left + b * width, top + c * height, left + d * width)
        for a, b, c, d in places
    ]
