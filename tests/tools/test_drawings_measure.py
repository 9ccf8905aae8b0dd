"""Names of colours, perceptual hashes and the drawing of clip art."""

import colorsys

import numpy as np
import pytest

from tools.drawings import measure, render

Image = pytest.importorskip("PIL.Image")
ImageColor = pytest.importorskip("PIL.ImageColor")

# Names of CSS and the basic word that each is a kind of.
CSS = {
    "red": "red crimson firebrick",
    "orange": "orange darkorange",
    "yellow": "yellow gold khaki",
    "green": "green forestgreen limegreen seagreen darkgreen lightgreen olivedrab",
    "blue": "blue navy royalblue dodgerblue steelblue skyblue",
    "purple": "purple indigo blueviolet mediumpurple darkorchid rebeccapurple",
    "pink": "hotpink deeppink lightpink pink",
    "brown": "saddlebrown sienna brown chocolate",
    "black": "black",
    "gray": "gray dimgray darkgray silver",
    "white": "white snow ghostwhite",
}


@pytest.mark.parametrize(
    ("css", "name"), [(css, name) for name, all_css in CSS.items() for css in all_css.split()]
)
def test_colours_of_css_have_their_basic_name(css, name):
    pixels = np.tile(np.array(ImageColor.getrgb(css), "uint8"), (40, 1))
    assert measure.colour_of(pixels) == name


def test_shares_are_those_of_the_pixels():
    pixels = np.array([(255, 0, 0)] * 30 + [(0, 0, 255)] * 50 + [(0, 0, 0)] * 20, "uint8")
    shares = measure.colour_shares(pixels)
    assert shares["red"] == pytest.approx(0.3)
    assert shares["blue"] == pytest.approx(0.5)
    assert shares["black"] == pytest.approx(0.2)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert sum(measure.colour_shares(pixels[:0]).values()) == 0.0


@pytest.mark.parametrize(
    ("counts", "name"),
    [
        ({"red": 60, "blue": 40}, "red"),
        ({"red": 55, "blue": 45}, ""),
        ({"red": 40, "black": 45, "blue": 15}, "red"),  # dark outlines do not count
        ({"red": 20, "black": 80}, "black"),
        ({"red": 40, "black": 60}, ""),
        ({}, ""),
    ],
)
def test_a_colour_is_named_if_most_has_it(counts, name):
    pixels = [ImageColor.getrgb(colour) for colour, count in counts.items() for _ in range(count)]
    assert measure.colour_of(np.array(pixels, "uint8").reshape(-1, 3)) == name


def disc(rgb):
    picture = np.full((64, 64, 3), 255, "uint8")
    rows, columns = np.mgrid[:64, :64]
    picture[(rows - 32) ** 2 + (columns - 30) ** 2 < 400] = rgb
    return picture


def test_only_turns_that_look_like_their_name_are_kept():
    red = colorsys.rgb_to_hsv(1, 0, 0)[0]
    assert measure.turns_of(disc((240, 0, 0)), red) == ["yellow", "green", "blue", "purple"]
    dark = measure.turns_of(disc((110, 0, 0)), red)
    assert "orange" not in dark  # that is brown
    assert {"green", "blue"} <= set(dark)


def test_a_near_duplicate_is_found_and_others_are_not():
    def hashed(pixels):
        return measure.perceptual_hash(Image.fromarray(pixels))

    rng = np.random.default_rng(0)
    original = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype("uint8")
    noisy = np.clip(original + rng.normal(0, 4, original.shape), 0, 255).astype("uint8")
    other = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype("uint8")
    turned = original[..., ::-1]  # nearly the same signs, other colours
    held_out = [hashed(picture) for picture in (noisy, other, turned, original)]
    found = measure.near_duplicates(held_out, [hashed(original), hashed(other[::-1])])
    assert found.tolist() == [True, False, False, True]
    grey = np.repeat(original[..., :1], 3, axis=-1)
    pink = (grey * (1, 0.5, 0.7)).astype("uint8")  # equal signs in grey
    assert (hashed(grey)[0] == hashed(pink)[0]).mean() > 0.98
    assert measure.near_duplicates([hashed(pink), hashed(grey)], [hashed(grey)]).tolist() == [
        False,
        True,
    ]
    assert measure.near_duplicates(held_out, []).tolist() == [False] * 4
    assert measure.near_duplicates([], held_out).tolist() == []


@pytest.mark.parametrize(
    ("root", "view"),
    [
        ('<svg viewBox="1 2 30 40" width="9" height="9">', (1, 2, 30, 40)),
        ("<svg viewBox='0,0,5,6'>", (0, 0, 5, 6)),
        ('<svg width="72pt" height="36.0pt">', (0, 0, 90, 45)),
        ('<svg width="1in" height="25.4mm">', (0, 0, 90, 90)),
        ('<svg\n width="10" stroke-width="3" height="20px">', (0, 0, 10, 20)),
        ('<svg width="100%" height="100%">', None),
        ("<svg>", None),
        ("no picture", None),
    ],
)
def test_views_of_documents(root, view):
    assert render.view_of(root) == (view and pytest.approx(view))


@pytest.mark.parametrize("size", ['width="200pt" height="300pt"', 'viewBox="-40 0 250 375"'])
def test_clip_art_is_cropped_to_what_is_drawn(size):
    pytest.importorskip("resvg_py")
    body = '<path fill="rgb(0,0,200)" d="M31 51h20v10h-20z"/>'
    svg = f'<svg {size} xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    picture = np.asarray(render.draw_clipart(svg))
    assert picture.shape == (128, 128, 4)
    rows, columns = (np.flatnonzero((picture[..., 3] > 128).any(axis=axis)) for axis in (1, 0))
    room = 128 - 2 * render.MARGIN
    assert len(columns) == pytest.approx(room, abs=5)
    assert len(rows) == pytest.approx(room / 2, abs=9)
    assert rows.mean() == pytest.approx(63.5, abs=3)
    assert columns.mean() == pytest.approx(63.5, abs=3)
    np.testing.assert_array_equal(picture[64, 64], (0, 0, 200, 255))


@pytest.mark.parametrize("body", ["", '<path fill="red" d="M0 0h90v1h-90z"/>'])
def test_nothing_and_lines_are_not_drawn(body):
    pytest.importorskip("resvg_py")
    svg = f'<svg width="90" height="90" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    assert render.draw_clipart(svg) is None
