"""Contact sheets: every pixel in its place, every label under its tile and no wider."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kgen.pictures import GAP, GREY, contact_sheet, save_animation, save_picture, save_png


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


def test_tiles_lie_row_by_row(images):
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (3 * 6 + 4 * GAP, 2 * 8 + 3 * GAP, 3)
    assert sheet.dtype == np.uint8
    for i, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]):
        top, left = GAP + row * (6 + GAP), GAP + column * (8 + GAP)
        np.testing.assert_array_equal(sheet[top : top + 6, left : left + 8], images[i])
        sheet[top : top + 6, left : left + 8] = GREY
    assert np.all(sheet == GREY)


def test_scale_repeats_pixels(images):
    sheet = contact_sheet(images[:1], scale=3)
    tile = sheet[GAP:-GAP, GAP:-GAP]
    assert tile.shape == (18, 24, 3)
    for i in range(3):
        for j in range(3):
            np.testing.assert_array_equal(tile[i::3, j::3], images[0])


def test_columns_default_to_a_square_and_never_exceed_the_pictures(images):
    assert contact_sheet(images).shape[1] == 3 * 8 + 4 * GAP
    assert contact_sheet(images, columns=9).shape[1] == 5 * 8 + 6 * GAP


def test_labels_stand_under_their_tiles_and_no_wider():
    images = np.full((4, 10, 60, 3), 255, "uint8")
    labels = [
        "red heart",
        "",
        "Donaudampfschifffahrt",
        "one two three four five six seven eight nine",
    ]
    sheet = contact_sheet(images, labels, columns=4)
    text = sheet[GAP + 10 : -GAP]
    widths = [slice(GAP + i * (60 + GAP), (i + 1) * (60 + GAP)) for i in range(4)]
    ink = [int(np.sum(text[:, width] < 100)) for width in widths]
    assert ink[1] == 0
    assert min(ink[0], ink[2], ink[3]) > 50
    gaps = [i * (60 + GAP) + j for i in range(5) for j in range(GAP)]
    assert np.all(sheet[:, gaps] == GREY)


def test_a_label_too_long_takes_three_lines_and_ends_in_dots():
    images = np.full((1, 10, 60, 3), 255, "uint8")
    three = contact_sheet(images, ["one two three four five six seven eight nine"])
    more = contact_sheet(images, ["one two three four five six seven eight nine ten " * 9])
    one = contact_sheet(images, ["one"])
    line = one.shape[0] - 10 - 2 * GAP
    assert three.shape[0] == more.shape[0] == 10 + 3 * line + 2 * GAP
    np.testing.assert_array_equal(three[: 10 + GAP + 2 * line], more[: 10 + GAP + 2 * line])


def test_png_holds_the_pixels(tmp_path, images):
    path = tmp_path / "new" / "folder" / "picture.png"
    save_png(path, images[0])
    np.testing.assert_array_equal(tf.io.decode_png(path.read_bytes()), images[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((2, 4, 4, 3))}, "must be uint8"),
        ({"images": np.zeros((4, 4, 3), "uint8")}, "must be uint8"),
        ({"images": np.zeros((0, 4, 4, 3), "uint8")}, "must be uint8"),
        ({"labels": ["a"]}, "one string for each"),
        ({"labels": ["a", 2]}, "one string for each"),
        ({"columns": 0}, "`columns` must be at least 1"),
        ({"scale": 1.5}, "`scale` must be at least 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(**{"images": np.zeros((2, 4, 4, 3), "uint8"), **arguments})


def test_only_uint8_pictures_are_written(tmp_path):
    with pytest.raises(ValueError, match="`image` must be uint8"):
        save_png(tmp_path / "a.png", np.zeros((4, 4, 3)))


def test_a_sheet_of_pictures_with_alpha_is_on_white():
    images = np.zeros((1, 8, 8, 4), "uint8")
    images[..., 3] = 51  # a fifth of black
    assert (contact_sheet(images) == 204).sum() == 8 * 8 * 3


@pytest.mark.parametrize(
    ("ending", "start"),
    [
        (".png", b"\x89PNG"),
        (".jpg", b"\xff\xd8\xff"),
        (".JPEG", b"\xff\xd8\xff"),
        (".webp", b"RIFF"),
    ],
)
def test_a_file_is_of_the_format_of_its_ending(ending, start, images, tmp_path):
    for save in (save_picture, save_png):
        path = tmp_path / f"{save.__name__}{ending}"
        save(path, images[0])
        assert path.read_bytes().startswith(start)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        if start != b"\xff\xd8\xff":
            np.testing.assert_array_equal(pixels, images[0])
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [ending, ending]


def test_an_animation_has_its_frames_times_and_words(images, tmp_path):
    about = {"prompt": "ein Ä"}
    for ending in (".png", ".webp", ".gif"):
        path = tmp_path / f"way{ending}"
        save_animation(path, images, seconds=0.05, last=2, metadata=about)
        with Image.open(path) as image:
            assert image.n_frames == len(images)
            times = []
            for frame in range(image.n_frames):
                image.seek(frame)
                image.load()
                times.append(image.info["duration"])
                if ending != ".gif":  # of 256 colours
                    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), images[frame])
        assert times == [50, 50, 50, 50, 2000]
    with Image.open(tmp_path / "way.png") as image:
        assert image.text == about


def test_what_cannot_be_written_is_refused(images, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in one of .*\.webp"):
        save_picture(tmp_path / "x.bmp", images[0])
    with pytest.raises(ValueError, match="`path` must end in"):
        save_animation(tmp_path / "x.jpg", images)
    with pytest.raises(ValueError, match="at least one picture"):
        save_animation(tmp_path / "x.gif", [])
    with pytest.raises(ValueError, match="`seconds` must be in"):
        save_animation(tmp_path / "x.gif", images, seconds=0)
    with pytest.raises(TypeError, match="`metadata` must hold strings"):
        save_picture(tmp_path / "x.png", images[0], {"seed": 3})
    with pytest.raises(ValueError, match="`image` must be uint8"):
        save_picture(tmp_path / "x.jpg", images[0] / 255)
    assert list(tmp_path.iterdir()) == []
