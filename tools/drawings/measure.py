"""Measures of a picture: the name of its colour, its possible colours, its perceptual hash.

Each pixel is assigned a colour name by its HSV values; a picture has a colour if at least `SHARE`
of its pixels that are not white have it. Dark outlines are ignored unless most pixels are dark.

The perceptual hash is the sign of the differences between neighbours in a 17 x 16 grey thumbnail
(dHash) together with a 4 x 4 thumbnail in colour. Two pictures are near duplicates if few signs
differ and the colours are close.

References:
  dHash: https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
"""

import numpy as np

from kgen.data.drawings.pictures import turn_hue
from kgen.data.emoji import COLOURS

SHARE = 0.6
NAMES = (
    "black",
    "gray",
    "white",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
)
# Hue in degrees at which the range of a colour name begins.
_BEGINS = ((0, "red"), (14, "orange"), (43, "yellow"), (70, "green"), (172, "blue"))
_BEGINS += ((252, "purple"), (300, "pink"), (345, "red"))
MAX_BITS = 18
MAX_COLOUR_DISTANCE = 14.0
_MIN_TURN = 0.11
# Of the pixels of a picture, one in so many is enough to name the colour of a turned one.
_STRIDE = 3


def colour_shares(pixels):
    """Returns the share of pixels of each of the `NAMES`.

    Args:
        pixels: uint8 array `[N, 3]`.

    Returns:
        A dictionary of 11 shares that sum to 1, or of zeros if there are no pixels.
    """
    if not len(pixels):
        return dict.fromkeys(NAMES, 0.0)
    rgb = np.asarray(pixels, "float32") / 255.0
    value, chroma = rgb.max(axis=1), np.ptp(rgb, axis=1)
    saturation = chroma / np.maximum(value, 1e-6)
    red, green, blue = rgb.T
    safe = np.where(chroma > 0, chroma, 1.0)
    sector = np.select(
        [value == red, value == green],
        [(green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    degrees = 60 * sector
    starts = np.array([start for start, _ in _BEGINS])
    words = np.array([NAMES.index(word) for _, word in _BEGINS])
    name = words[np.searchsorted(starts, degrees, side="right") - 1]
    warm = (degrees < 45) | (degrees >= 345)
    name[warm & (degrees >= 10) & (degrees < 345) & (value < 0.72)] = NAMES.index("brown")
    name[(degrees >= 10) & (degrees < 30) & (value < 0.84) & (saturation < 0.9)] = NAMES.index(
        "brown"
    )
    name[warm & (degrees < 10) & (value < 0.7) & (saturation < 0.76)] = NAMES.index("brown")
    name[(degrees >= 285) & (degrees < 325) & (value < 0.65)] = NAMES.index("purple")
    pale_red = ((degrees < 14) | (degrees >= 340)) & (saturation < 0.55) & (value >= 0.8)
    name[pale_red] = NAMES.index("pink")
    grey = (saturation < 0.16) | (chroma < 0.09)
    name[grey] = NAMES.index("gray")
    name[grey & (value > 0.86)] = NAMES.index("white")
    name[(value < 0.24) | (grey & (value < 0.36))] = NAMES.index("black")
    counts = np.bincount(name, minlength=len(NAMES)) / len(name)
    return dict(zip(NAMES, counts.tolist()))


def colour_of(pixels, share=SHARE):
    """Returns the name of the most frequent colour of pixels, or `""`.

    Args:
        pixels: uint8 array `[N, 3]`, what is drawn of a picture.
        share: the share of the pixels that must have it.
    """
    shares = colour_shares(pixels)
    black = shares.pop("black")
    if black >= 0.75:
        return "black"
    name = max(shares, key=shares.get)
    if name == "white":  # most drawings have some white in them
        share = max(share, 0.85)
    return name if black < 0.5 and shares[name] >= share * (1 - black) > 0 else ""


def drawn_pixels(picture):
    """Returns the pixels `[N, 3]` of a picture `[H, W, 3]` that are not white."""
    return picture[picture.min(axis=-1) < 250]


def turns_of(picture, hue):
    """Returns the names of the `COLOURS` that a picture has after its hue is shifted to theirs.

    Names that do not describe the result are left out (a dark picture with a yellow hue is olive, a
    pale one with a red hue pink), and colours that hardly change the picture.

    Args:
        picture: uint8 array `[H, W, 3]` on white.
        hue: its dominant hue in [0, 1).
    """
    pixels = drawn_pixels(picture)[None, ::_STRIDE]
    names = []
    for name, target in COLOURS.items():
        far = abs((target - hue + 0.5) % 1.0 - 0.5) > _MIN_TURN
        if far and colour_of(turn_hue(pixels, hue, target)[0]) == name:
            names.append(name)
    return names


def perceptual_hash(picture):
    """Returns `(signs, colours)`: int8 `[256]` of -1 and 1, and uint8 `[48]`.

    Args:
        picture: a Pillow image in mode RGB.
    """
    grey = np.asarray(picture.convert("L").resize((17, 16), 4), "int16")
    signs = np.where(np.diff(grey, axis=1) > 0, 1, -1).astype("int8")
    return signs.ravel(), np.asarray(picture.resize((4, 4), 4)).ravel()


def near_duplicates(held_out, training):
    """Returns which held-out pictures are near duplicates of training pictures.

    Args:
        held_out: sequence of perceptual hashes.
        training: sequence of perceptual hashes.

    Returns:
        A bool array `[len(held_out)]`.
    """
    if not len(held_out) or not len(training):
        return np.zeros(len(held_out), bool)
    signs = np.stack([signs for signs, _ in training]).astype("float32")
    colours = np.stack([colours for _, colours in training]).astype("float32")
    found = []
    for sign, colour in held_out:
        bits = (len(sign) - signs @ sign.astype("float32")) / 2
        close = np.flatnonzero(bits <= MAX_BITS)
        distance = np.abs(colours[close] - colour.astype("float32")).mean(axis=1)
        found.append(bool((distance <= MAX_COLOUR_DISTANCE).any()))
    return np.array(found)
