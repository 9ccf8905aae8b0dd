"""The builder of the captioned emoji, on packages made here."""

import colorsys
import io
import json

import numpy as np
import pytest

from kgen.data import emoji
from tools import emoji as build


def square(red, green, blue):
    return f'<path fill="rgb({red},{green},{blue})" d="M4 4h24v24H4z"/>'


ENTRIES = [
    ("1F34E", "red apple", ["apple", "fruit", "Red"], 4),
    ("2764-FE0F", "red heart", ["love"], 0),
    ("1F1E7-1F1EC", "flag: Bulgaria", ["BG"], 9),
    ("1F388", "balloon", ["party"], 6),  # held out
    ("1F497", "growing heart", [], 0),  # hidden
    ("1F3FB", "light skin tone", [], 2),
]
CODES = {
    "1f34e": "red-apple",
    "2764": "red-heart",
    "1f1e7-1f1ec": "flag-bulgaria",
    "1f388": "balloon",
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """All the packages: two sets with code points,and the others by name."""
    folder = tmp_path_factory.mktemp("packages")

    def put(package, path, value):
        target = folder / build.folder_of(package) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(value))

    keys = ("hexcode", "label", "tags", "group")
    put(build.WORDS, "en/data.json", [dict(zip(keys, entry)) for entry in ENTRIES])
    put(build.WORDS, "meta/groups.json", {"groups": {str(n): f"group-{n}" for n in range(10)}})
    for codes in ("cldr", "emojibase", "github", "iamcal", "joypixels"):
        put(build.WORDS, f"en/shortcodes/{codes}.json", {"1F34E": ["apple_fruit"]})
    names = [
        "red-apple",
        "flag-for-bulgaria",
        "redheart",
        "red-heart-light-skin-tone",
        "letter-a",
        "balloon",
    ]
    for number, (style, package) in enumerate(build.ICON_SETS.items()):
        own = CODES if style in ("twemoji", "noto") else {}
        icons = {
            name: {"body": square(200, 20 * number, 30 * place)}
            for place, name in enumerate([*own.values(), "letter-b"] if own else names)
        }
        if style == "noto":
            icons["red-heart"]["body"] = square(200, 0, 0)  # the apple of twemoji
            icons["growing-heart"] = {"body": square(1, 2, 3), "hidden": True}
        put(package, "icons.json", {"icons": icons, "width": 32, "height": 32})
        put(package, "chars.json", own)
    return folder


def test_names_meet_code_points(packages):
    labels = build.read_labels(packages / build.folder_of(build.WORDS))
    names = build.read_names(packages, labels)
    assert set(labels) == {"1F34E", "2764", "1F1E7-1F1EC", "1F388", "1F497"}
    joined, unmatched = build.join_icons(packages, build.ICON_SETS["fxemoji"], names, labels)
    assert joined == {
        "1F34E": "red-apple",
        "1F1E7-1F1EC": "flag-for-bulgaria",
        "2764": "redheart",
        "1F388": "balloon",
    }
    assert unmatched == ["letter-a"]
    assert names["applefruit"] == "1F34E"  # a short code
    assert names["heavyblackheart"] == "2764"  # the name of the character in Unicode


def test_what_is_built_is_read_back(packages, tmp_path, capsys):
    pytest.importorskip("resvg_py")
    output = tmp_path / "built"
    arguments = ["--packages", str(packages), "--output", str(output)]
    build.main([*arguments, "--styles", "twemoji", "noto", "fxemoji"])
    assert "noto: 3 pictures" in capsys.readouterr().out
    rows = {}
    for split in emoji.SPLITS:
        arrays = emoji.load_arrays(split, data_dir=output)
        for row in zip(*arrays.values(), strict=True):
            rows[row[1], row[2]] = row
            assert (split == "test") == (row[1] == "balloon")
    captions = {"red apple", "red heart", "flag of bulgaria", "balloon"}
    expected = {
        (caption, style) for caption in captions for style in ("twemoji", "noto", "fxemoji")
    }
    assert set(rows) == expected - {("red heart", "noto")}
    image, _, _, tags, group = rows["red apple", "twemoji"]
    assert (tags, group) == ("fruit", "group-4")
    np.testing.assert_array_equal(image[32, 32], [200, 0, 0])
    np.testing.assert_array_equal(image[0, 0], [255, 255, 255])
    with pytest.raises(SystemExit):
        build.main(arguments)
    assert "exists already" in capsys.readouterr().err


def test_missing_packages_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        build.main(["--packages", str(tmp_path), "--output", str(tmp_path / "built")])
    assert "emojibase-data-17.0.0; try --download" in capsys.readouterr().err


def test_rendering_is_over_white_and_centred():
    pytest.importorskip("resvg_py")
    body = '<path fill="red" fill-opacity="0.5" d="M0 0h32v16H0z"/>'
    pixels = np.asarray(build.render(body, 0, 0, 32, 16)).astype(int)
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels[32, 32] - [255, 127.5, 127.5]).max() <= 1
    painted = np.flatnonzero(pixels[:, 32].min(axis=1) < 255)
    assert (painted[0], painted[-1]) == (16, 47)


def test_encoding_loses_nothing():
    image = pytest.importorskip("PIL.Image")
    for pixels in (
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8"),
        np.array([[250, 0, 0], [0, 120, 9]], "uint8")[np.random.default_rng(0).choice(2, (64, 64))],
    ):
        encoded = build.encode_png(image.fromarray(pixels))
        decoded = np.asarray(image.open(io.BytesIO(encoded)).convert("RGB"))
        np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("degrees", [0, 20, 100, 199, 310, 359])
def test_the_dominant_hue_of_a_picture_of_one_hue(degrees):
    levels = np.linspace(0.2, 1.0, 64)
    colours = [colorsys.hsv_to_rgb(degrees / 360, 1.0, level) for level in levels]
    picture = np.rint(255 * np.tile(np.array(colours)[None], (64, 1, 1))).astype("uint8")
    hue, concentration = build.dominant_hue(picture)
    assert abs((hue * 360 - degrees + 180) % 360 - 180) < 1
    assert concentration == pytest.approx(1.0, abs=1e-3)


def test_the_hue_of_grey_and_of_opposite_colours_is_not_concentrated():
    grey = np.full((8, 8, 3), 90, "uint8")
    assert build.dominant_hue(grey)[1] == 0.0
    both = np.zeros((8, 8, 3), "uint8")
    both[:4], both[4:] = (255, 0, 0), (0, 255, 255)
    assert build.dominant_hue(both)[1] == pytest.approx(0.0, abs=1e-6)
    pale = np.full((8, 8, 3), (255, 230, 230), "uint8")
    assert build.dominant_hue(pale)[1] == pytest.approx(25 / 255 / 0.35, abs=1e-3)
