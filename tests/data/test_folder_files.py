"""Files that people have: formats, links, shapes, opacity, and two parts that share no picture."""

import os

import numpy as np
import pytest
from PIL import Image, features

from kgen.data import folder

SIZE = 8
RED, GREEN = (255, 0, 0), (0, 128, 0)


def draw(path, colour=RED, size=(SIZE, SIZE), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def images(directory, size=SIZE, **options):
    return folder.load_arrays(directory, size, **options)[0]


# -- formats ----------------------------------------------------------------------------------


@pytest.mark.skipif(not features.check("avif"), reason="needs Pillow with AVIF")
def test_avif(tmp_path):
    draw(tmp_path / "a.AVIF", GREEN, (32, 32))
    np.testing.assert_allclose(images(tmp_path)[0].mean((0, 1)), GREEN, atol=4)
    path = tmp_path / "a.AVIF"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read: its boxes are incomplete"):
        images(tmp_path)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".jxl", ".svg", ".psd", ".dng", ".tga"])
def test_formats_that_are_not_read_are_named_and_what_to_do(tmp_path, suffix):
    draw(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / f"b{suffix}").write_bytes(b"\0" * 99)
    with pytest.warns(
        UserWarning, match=rf"1 pictures .*\{suffix.lower()}.*sub.b\{suffix}: convert"
    ):
        assert len(images(tmp_path)) == 1
    os.remove(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"which has none; 1 pictures .*b\{suffix}: convert"):
        images(tmp_path)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    ],
)
def test_a_format_under_the_name_of_another_is_named(tmp_path, start, name):
    (tmp_path / "a.jpg").write_bytes(start + b"\0" * 99)
    with pytest.raises(ValueError, match=rf"a\.jpg cannot be read: .* format {name}: convert it"):
        images(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize(("value", "expected"), [(200, 0), (257 * 3, 3), (65535, 255)])
def test_grey_of_16_bits_is_known_by_its_mode(tmp_path, suffix, value, expected):
    """A dark picture, of no number above 255, is dark."""
    Image.fromarray(np.full([SIZE, SIZE], value, "uint16")).save(tmp_path / f"a{suffix}")
    assert (images(tmp_path, channels=1) == expected).all()


@pytest.mark.parametrize("value", [256, 70000, 2**31 - 1, -1])
def test_32_bits_do_not_wrap(tmp_path, value):
    Image.fromarray(np.array([[0, value]] * 2, "int32")).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=rf"32-bit numbers, from .*{value}.*save it with 8 or 16"):
        images(tmp_path)


# -- shapes and channels ----------------------------------------------------------------------


def test_shapes_that_are_not_square(tmp_path):
    image = Image.new("RGB", (3 * SIZE, SIZE), GREEN)
    image.paste(RED, (SIZE, 0, 2 * SIZE, SIZE))
    image.save(tmp_path / "a.png")
    whole = images(tmp_path, (SIZE, 3 * SIZE))
    np.testing.assert_array_equal(whole[0], np.asarray(image))
    tall = images(tmp_path, (2 * SIZE, SIZE), resize="crop")
    assert tall.shape == (1, 2 * SIZE, SIZE, 3)
    assert (tall[0, :, 1:-1] == RED).all()
    padded = images(tmp_path, [3 * SIZE, 3 * SIZE], resize="pad")[0]
    np.testing.assert_array_equal(padded[SIZE : 2 * SIZE], np.asarray(image))
    assert (padded[:SIZE] == 255).all()
    batch = next(iter(folder.load(tmp_path, (4, 6))))
    assert batch.shape == (1, 4, 6, 3)


@pytest.mark.parametrize("size", [(8, 8, 3), (8,), (8, 0), "88", (8.5, 8), None])
def test_sizes_that_are_none(tmp_path, size):
    draw(tmp_path / "a.png")
    with pytest.raises((TypeError, ValueError), match="`size` must be"):
        images(tmp_path, size)


def test_opacity_is_kept_as_a_fourth_channel(tmp_path):
    draw(tmp_path / "a.png", (10, 20, 30, 40), mode="RGBA")
    draw(tmp_path / "b.png", RED)
    draw(tmp_path / "c.png", 0, mode="P", transparency=0)
    draw(tmp_path / "d.png", (10, 20, 30, 40), (SIZE, SIZE // 2), mode="RGBA")
    found = images(tmp_path, channels=4, resize="pad")
    assert (found[0] == (10, 20, 30, 40)).all()
    assert (found[1] == (*RED, 255)).all()
    assert (found[2, ..., 3] == 0).all()
    assert (found[3, 0, :, 3] == 0).all()
    assert (found[3, SIZE // 2] == (10, 20, 30, 40)).all()
    assert next(iter(folder.load(tmp_path, SIZE, channels=4))).shape == (4, SIZE, SIZE, 4)


# -- links ------------------------------------------------------------------------------------


def test_folders_that_are_linked_inside_are_followed(tmp_path):
    draw(tmp_path / "cats" / "a.png")
    (tmp_path / "pets").symlink_to(tmp_path / "cats")
    assert len(images(tmp_path)) == 2
    assert folder.classes(tmp_path) == ["cats", "pets"]


def test_folders_that_are_linked_outside_are_named(tmp_path):
    draw(tmp_path / "far" / "a.png")
    draw(tmp_path / "here" / "b.png")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far")
    message = "link is a link that leads out of `directory`; `follow_links=True`"
    with pytest.raises(ValueError, match=message):
        images(tmp_path / "here")
    with pytest.warns(UserWarning, match=message):
        assert len(images(tmp_path / "here", on_error="skip")) == 1
    assert len(images(tmp_path / "here", follow_links=True)) == 2
    assert folder.classes(tmp_path / "here", follow_links=True) == ["link"]


@pytest.mark.parametrize("target", [".", "..", "../sub"])
def test_a_link_in_a_circle_has_an_end(tmp_path, target):
    draw(tmp_path / "sub" / "a.png")
    (tmp_path / "sub" / "link").symlink_to(target)
    with pytest.warns(UserWarning, match="link is a link to a folder that contains it"):
        assert len(images(tmp_path, on_error="skip")) == 1


def test_two_links_in_a_circle_have_an_end(tmp_path):
    draw(tmp_path / "a" / "a.png")
    draw(tmp_path / "b" / "b.png")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    with pytest.warns(UserWarning, match="contains it"):
        assert len(images(tmp_path, on_error="skip")) == 4


def test_a_link_to_nothing_is_named(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"b\.png is a link to a missing file"):
        images(tmp_path)


# -- two parts --------------------------------------------------------------------------------


def levels(directory, split, **options):
    found = folder.load_arrays(directory, 1, split=split, **options)[0]
    return {tuple(pixel) for pixel in found.reshape(-1, 3).tolist()}


def test_two_parts_share_no_picture_and_stay_when_others_come(tmp_path):
    for i in range(300):
        draw(tmp_path / f"{i}.png", (i % 256, i // 256, 7), (1, 1))
    train, held = (levels(tmp_path, split) for split in ("train", "validation"))
    assert not train & held
    assert train | held == levels(tmp_path, "all")
    # binomial: 30 with a standard deviation of 5.2
    assert 14 <= len(held) <= 46
    for i in range(300, 400):
        draw(tmp_path / f"{i}.png", (i % 256, i // 256, 7), (1, 1))
    assert held <= levels(tmp_path, "validation")
    assert train <= levels(tmp_path, "train")
    half = levels(tmp_path, "validation", validation=0.5)
    assert held <= half
    assert 160 <= len(half) <= 240


def test_one_picture_under_two_names_is_in_one_part(tmp_path):
    for i in range(60):
        draw(tmp_path / "all" / f"{i}.png", (i, 0, 0), (1, 1))
        draw(tmp_path / "all" / f"{i}.bmp", (i, 0, 0), (1, 1))
        os.symlink(tmp_path / "all" / f"{i}.png", tmp_path / f"{100 - i}.png")
    (tmp_path / "more").symlink_to(tmp_path / "all")
    parts = [levels(tmp_path, split, validation=0.3) for split in ("train", "validation")]
    assert not parts[0] & parts[1]
    assert min(map(len, parts)) > 5


def test_copies_of_a_picture_under_other_names_are_in_one_part(tmp_path):
    """Also where two copies are joined by a third picture, of the name of one of them."""
    for i in range(60):
        draw(tmp_path / "a" / f"{i}.png", (i, 0, 0), (1, 1))
        draw(tmp_path / "b" / f"copy-{i}.png", (i, 0, 0), (1, 1))
        draw(tmp_path / "b" / f"copy-{i}.bmp", (i, 0, 0), (1, 1))
    train, held = (levels(tmp_path, split, validation=0.5) for split in ("train", "validation"))
    assert not train & held
    assert len(train | held) == 60
    assert len(held) > 5  # a quarter: where both names are held out
    for i in range(60):
        draw(tmp_path / "c" / f"again-{i}.png", (i, 0, 0), (1, 1))
    assert train <= levels(tmp_path, "train", validation=0.5)  # none leaves what was trained on


def test_labels_are_the_same_in_both_parts(tmp_path):
    for name in ("a", "b", "c"):
        for i in range(20):
            draw(tmp_path / name / f"{i}.png", ("abc".index(name), i, 0), (1, 1))
    for split in ("train", "validation"):
        pixels, columns = folder.load_arrays(
            tmp_path, 1, captions="folders", split=split, validation=0.3
        )
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], columns["labels"])
        assert len(pixels) > 5


def test_a_part_without_a_picture_is_an_error(tmp_path):
    draw(tmp_path / "a.png")
    split = "validation" if len(levels(tmp_path, "train")) else "train"
    with pytest.raises(ValueError, match="`split` must leave a picture.*none of the 1"):
        images(tmp_path, split=split)


@pytest.mark.parametrize(("split", "validation"), [("test", 0.1), ("train", 0.0), ("train", 1)])
def test_parts_that_are_none(tmp_path, split, validation):
    draw(tmp_path / "a.png")
    with pytest.raises(ValueError, match="`(split|validation)` must be"):
        images(tmp_path, split=split, validation=validation)
