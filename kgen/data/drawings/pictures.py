"""Arithmetic of pictures on white: turning the hue, trimming, fitting, arranging.

A picture is a uint8 array `[H, W, 3]` on white. Things are arranged without overlap, so the white
around them needs no mask: each is trimmed to its drawn box, scaled to fit into its place, and the
darker of the two pixels stays,

    canvas = min(canvas, thing).

Everything here is a pure function of arrays.
"""

from collections.abc import Sequence

import numpy as np

WHITE = 255
# A pixel is drawn if one of its channels is below this; the edges of PNGs of vectors are soft.
_DRAWN_BELOW = 250
# Places, as (top, left, bottom, right) in parts of the side, for 1 to 4 things.
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
    """Turns the hues of a picture by `target - hue`; value and saturation in HSV stay.

    Args:
        picture: uint8 array `[H, W, 3]`.
        hue: The hue in [0, 1) that is to move, where 0 is red and 1/3 green.
        target: The hue that takes its place.

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
    """Crops a picture to the box of what is drawn on the white.

    Args:
        picture: uint8 array `[H, W, 3]`.

    Returns:
        uint8 array `[h, w, 3]`, a view.

    Raises:
        ValueError: If nothing is drawn.
    """
    drawn = np.asarray(picture).min(axis=-1) < _DRAWN_BELOW
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not len(rows):
        raise ValueError("`picture` must not be all white. Received: an empty picture.")
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales a picture to the largest size that fits into `height` and `width`.

    Args:
        picture: uint8 array `[H, W, 3]`.
        height: Pixels, at least 1.
        width: Pixels, at least 1.

    Returns:
        uint8 array `[h, w, 3]` with `h <= height` and `w <= width`, one of them equal.
    """
    from PIL import Image

    scale = min(height / picture.shape[0], width / picture.shape[1])
    size = [max(1, round(scale * side)) for side in picture.shape[1::-1]]
    resized = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized)


def arrange(pictures: Sequence[np.ndarray], places: Sequence[tuple], size: int) -> np.ndarray:
    """Draws pictures side by side on white, each trimmed and fitted into the middle of its place.

    Args:
        pictures: Sequence of uint8 arrays `[H, W, 3]`.
        places: Sequence, as long, of `(top, left, bottom, right)` in parts of `size`.
        size: Pixels of a side of the canvas.

    Returns:
        uint8 array `[size, size, 3]`.

    Raises:
        ValueError: If there are not as many pictures as places, or a picture is empty.
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
    """Returns places within a frame, which has the form of a place itself."""
    top, left, bottom, right = frame
    height, width = bottom - top, right - left
    return [
        (top + a * height, left + b * width, top + c * height, left + d * width)
        for a, b, c, d in places
    ]
