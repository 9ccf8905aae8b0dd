"""Rendering of clip art at 128 x 128, cropped to its bounding box.

A drawing of openclipart may be anywhere on a page of any size and unit, so it is first rendered
small to find its bounding box, and then with that box as the view. Boxes are in units of the view,

    box = view corner + pixel / scale.
"""

import re

import numpy as np

from tools import emoji as emoji_build

SIZE = 128
MARGIN = 5
_ROOT = re.compile(r"<svg\b[^>]*>", re.DOTALL)
_LENGTH = re.compile(r"\s*([0-9.eE+-]+)\s*(px|pt|pc|mm|cm|in|%)?\s*$")
_PIXELS = {"px": 1.0, "pt": 1.25, "pc": 15.0, "mm": 90 / 25.4, "cm": 90 / 2.54, "in": 90.0}
_SCOUT = 256
_MAX_LOOKS = 3
_MAX_ASPECT = 4.5


def view_of(svg):
    """Returns the view `(left, top, width, height)` of an SVG document in its own units, or None.

    Old documents state only a size; there are 90 units per inch, as in Inkscape at the time.
    """
    root = _ROOT.search(svg)
    if root is None:
        return None
    box = _attribute(root.group(), "viewBox")
    if box:
        numbers = [float(number) for number in re.split(r"[\s,]+", box.strip())]
        return tuple(numbers) if len(numbers) == 4 and min(numbers[2:]) > 0 else None
    sides = [_pixels(_attribute(root.group(), side)) for side in ("width", "height")]
    return (0.0, 0.0, *sides) if all(sides) else None


def with_view(svg, view, width, height):
    """Returns an SVG document with another view, to be drawn at `width` x `height` pixels."""
    root = _ROOT.search(svg).group()
    bare = re.sub(
        r"\s(viewBox|width|height|preserveAspectRatio)\s*=\s*(\"[^\"]*\"|'[^']*')", " ", root
    )
    numbers = " ".join(f"{number:.6g}" for number in view)
    new = f'{bare[:4]} viewBox="{numbers}" width="{width}" height="{height}"{bare[4:]}'
    return svg.replace(root, new, 1)


def draw_clipart(svg, size=SIZE):
    """Renders an SVG document, cropped to its bounding box and centred in a square.

    Returns:
        A Pillow image in mode RGBA, or None if it shows nothing, is very long, or has no size.
    """
    from PIL import Image

    view = view_of(svg)
    if view is None:
        return None
    for _ in range(_MAX_LOOKS):
        scale = _SCOUT / max(view[2:])
        width, height = (max(1, round(side * scale)) for side in view[2:])
        scout = emoji_build.draw(with_view(svg, view, width, height), width, height)
        box = Image.fromarray(np.asarray(scout)[..., 3] > 12).getbbox()
        if box is None:
            return None
        left, top, right, bottom = box
        if max(right - left, bottom - top) > 0.7 * _SCOUT:
            break
        view = (
            view[0] + (left - 2) / scale,
            view[1] + (top - 2) / scale,
            (right - left + 4) / scale,
            (bottom - top + 4) / scale,
        )
    if max(right - left, bottom - top) > _MAX_ASPECT * max(1, min(right - left, bottom - top)):
        return None
    shown = (right - left) / scale, (bottom - top) / scale
    room = size - 2 * MARGIN
    zoom = room / max(shown)
    width, height = (max(1, round(side * zoom)) for side in shown)
    close = (view[0] + left / scale, view[1] + top / scale, *shown)
    drawn = emoji_build.draw(with_view(svg, close, width, height), width, height)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(drawn, ((size - width) // 2, (size - height) // 2))
    return canvas


def _attribute(root, name):
    found = re.search(rf"\s{name}\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", root)
    return (found.group(1) or found.group(2) or "") if found else ""


def _pixels(length):
    found = _LENGTH.match(length)
    if not found or found.group(2) == "%":
        return 0.0
    return max(0.0, float(found.group(1))) * _PIXELS[found.group(2) or "px"]
