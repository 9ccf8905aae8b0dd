"""`kgen generate`, `edit`, `interpolate` and `info`: files, their formats, and what they say."""

import json

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("opened_once")
STARTS = {
    ".png": b"\x89PNG\r\n\x1a\n",
    ".jpg": b"\xff\xd8\xff",
    ".webp": b"RIFF",
    ".gif": b"GIF89a",
}
QUICK = ["--steps", "2"]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def draw(kgen_json, text_model):
    def run(*argv, command="generate"):
        return kgen_json(command, *argv, "--model", text_model, *QUICK)

    return run


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_a_file_is_what_its_ending_says_and_how_it_was_made(ending, draw, kgen_json, tmp_path):
    path = tmp_path / f"heart{ending}"
    draw("a réd heart", "--seed", "7", "--negative", "blue", "--output", path)
    start = path.read_bytes()[:12]
    assert start.startswith(STARTS[ending])
    assert ending != ".webp" or start[8:] == b"WEBP"
    said = kgen_json("info", path)
    assert (said["prompt"], said["seed"], said["negative"]) == ("a réd heart", "7", "blue")
    assert said["size"] == [16, 16]
    assert said["settings"]["steps"] == 2
    assert said["settings"]["solver"] == "dpm"


def test_a_png_has_text_chunks_that_any_program_reads(draw, text_model, tmp_path):
    draw("a red heart", "--seed", "7", "--output", tmp_path / "heart.png")
    with Image.open(tmp_path / "heart.png") as image:
        text = image.text
    assert text["prompt"] == "a red heart"
    assert text["seed"] == "7"
    assert text["model"] == str(text_model)
    assert json.loads(text["settings"])["guidance"] == 3.0
    assert b"tEXtprompt\0a red heart" in (tmp_path / "heart.png").read_bytes()


def test_like_repeats_one_picture_of_many_with_all_its_settings(draw, kgen_json, tmp_path):
    first = draw(
        "sun", "moon", "--count", "2", "--seed", "5", "--upscale", "2", "--output", tmp_path
    )
    assert first["seeds"] == [5, 6, 5, 6]
    assert [p.rsplit("/", 1)[1] for p in first["files"]] == [
        *("sun-5.png", "sun-6.png", "moon-5.png", "moon-6.png")
    ]
    again = tmp_path / "again.png"
    kgen_json("generate", "--like", first["files"][3], "--output", again)
    assert pixels(again).shape == (32, 32, 3)
    difference = np.abs(pixels(again) - pixels(first["files"][3]))
    assert difference.max() <= 2  # rounding, in another batch
    others = [np.abs(pixels(again) - pixels(file)).max() for file in first["files"][:3]]
    assert min(others) > 10
    other = kgen_json(
        "generate", "--like", first["files"][3], "--seed", "1", "--output", tmp_path / "x.png"
    )
    assert other["prompts"] == ["moon"]
    assert np.abs(pixels(tmp_path / "x.png") - pixels(again)).max() > 10


def test_a_sheet_holds_every_picture_and_its_label(draw, tmp_path):
    draw("sun", "moon", "--seed", "1", "--sheet", "--output", tmp_path / "sheet.png")
    draw("sun", "moon", "--seed", "1", "--output", tmp_path)
    sheet = pixels(tmp_path / "sheet.png")
    for name in ("sun-1.png", "moon-1.png"):
        tile = pixels(tmp_path / name).repeat(2, 0).repeat(2, 1)
        windows = np.lib.stride_tricks.sliding_window_view(sheet, (32, 32, 3))[:, :, 0]
        assert (windows == tile).all(axis=(2, 3, 4)).sum() == 1


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_an_animation_ends_with_the_picture(ending, draw, tmp_path):
    path = tmp_path / f"path{ending}"
    draw("sun", "--seed", "3", "--animate", "--output", path)
    draw("sun", "--seed", "3", "--output", tmp_path / "sun.png")
    assert path.read_bytes().startswith(STARTS[ending])
    with Image.open(path) as image:
        assert image.n_frames == 2
        assert image.info["loop"] == 0
        image.seek(1)
        last = np.asarray(image.convert("RGB")).astype(int)
    off = 40 if ending == ".gif" else 0  # a GIF has 256 colours
    assert np.abs(last - pixels(tmp_path / "sun.png")).max() <= off


def test_interpolation_begins_and_ends_with_the_prompts(draw, tmp_path):
    path = tmp_path / "way.png"
    said = draw(
        "sun", "moon", "--seed", "2", "--frames", "3", "--output", path, command="interpolate"
    )
    assert said["seeds"] == [2, 3]
    with Image.open(path) as image:
        assert image.n_frames == 3


def test_interpolated_values_are_each_end_at_each_end(text_model):
    import kgen
    from kgen.cli.interpolate import interpolated

    model = kgen.from_preset(text_model)
    cond, noise = interpolated(model, ["red sun", "moon"], [4, 9], 5)
    for row, prompt in ((0, "red sun"), (4, "moon")):
        expected = model.conditioner([prompt])
        for key, value in expected.items():
            np.testing.assert_allclose(cond[key][row], value[0], atol=1e-6)
    lengths = np.linalg.norm(noise.reshape(5, -1), axis=1)
    size = noise[0].size
    assert np.all(np.abs(lengths / np.sqrt(size) - 1) < 5 / np.sqrt(2 * size))
    middle = (noise[0] + noise[4]) / np.linalg.norm(noise[0] + noise[4])
    cosine = np.sum(noise[2] * middle) / lengths[2]
    assert cosine > 0.999


def picture_of(mode, size, path, exif=None):
    y, x = np.mgrid[: size[0], : size[1]]
    values = np.stack([x * 255 // size[1], y * 255 // size[0], 0 * x + 90, 255 - x], -1)
    image = Image.fromarray(values.astype("uint8")[..., :3])
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(values[..., 3].clip(0, 255).astype("uint8")))
    image = image.convert(mode)
    image.save(path, **({} if exif is None else {"exif": exif}))
    return image


@pytest.mark.parametrize(
    ("mode", "ending", "size"),
    [
        ("RGB", ".png", (37, 61)),
        ("L", ".png", (50, 20)),
        ("1", ".png", (17, 16)),
        ("P", ".png", (16, 16)),
        ("LA", ".png", (9, 30)),
        ("RGBA", ".png", (33, 40)),
        ("RGBA", ".webp", (33, 40)),
        ("CMYK", ".jpg", (24, 31)),
        ("L", ".jpg", (24, 31)),
    ],
)
def test_an_edited_picture_has_its_size_and_mode_again(mode, ending, size, draw, tmp_path):
    path, output = tmp_path / f"in{ending}", tmp_path / f"out{ending}"
    before = picture_of(mode, size, path)
    draw(path, "a red heart", "--strength", "0.5", "--output", output, command="edit")
    with Image.open(output) as after:
        assert (after.mode, after.size) == (mode, before.size)
        assert output.read_bytes().startswith(STARTS[ending])
        if mode in ("RGBA", "LA"):
            np.testing.assert_array_equal(after.getchannel("A"), before.getchannel("A"))


def test_a_turned_photograph_comes_back_upright(draw, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: width and height change places
    picture_of("RGB", (20, 40), tmp_path / "in.jpg", exif)
    draw(tmp_path / "in.jpg", "x", "--output", tmp_path / "out.jpg", command="edit")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.size == (20, 40)
        assert image.getexif().get(0x0112, 1) == 1


def test_what_a_mask_keeps_is_kept_to_the_pixel(draw, tmp_path):
    picture_of("RGB", (37, 61), tmp_path / "in.png")
    mask = np.zeros((37, 61), "uint8")
    mask[5:20, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = ["--mask", tmp_path / "mask.png", "--output", tmp_path / "out.png", "--seed", "1"]
    draw(tmp_path / "in.png", "a red heart", *options, command="edit")
    before, after = pixels(tmp_path / "in.png"), pixels(tmp_path / "out.png")
    np.testing.assert_array_equal(after[mask == 0], before[mask == 0])
    assert np.abs(after - before)[mask > 0].mean() > 5


def test_a_picture_that_is_fitted_and_put_back_is_nearly_the_same(tmp_path):
    from kgen.cli.pictures import open_upright
    from kgen.fitting import fitted, put_back

    for size in ((64, 64), (64, 40), (31, 64)):
        picture_of("RGB", size, tmp_path / "in.png")
        picture = open_upright(tmp_path / "in.png")
        small = fitted(picture.pixels, (64, 64, 3))
        assert small.shape == (64, 64, 3)
        back = put_back(small, picture)
        assert np.abs(back.astype(int) - picture.pixels).max() <= 6


@pytest.mark.parametrize("classes", [["cat", "dog"], ["0", "1"]])
def test_a_model_of_classes_takes_names_or_numbers(classes, class_model, kgen_json, tmp_path):
    said = kgen_json(
        *("generate", *classes, "--model", class_model, "--seed", "1"), *QUICK, "--output", tmp_path
    )
    with Image.open(said["files"][1]) as image:
        assert (image.mode, image.size) == ("L", (8, 8))


def test_a_vae_draws_without_a_prompt_each_by_its_seed(vae, kgen_json, tmp_path):
    said = kgen_json("generate", "--model", vae, "--count", 3, "--seed", 4, "--output", tmp_path)
    again = kgen_json("generate", "--like", said["files"][2], "--output", tmp_path / "again.png")
    assert again["seeds"] == [6]
    np.testing.assert_array_equal(pixels(tmp_path / "again.png"), pixels(said["files"][2]))


def test_what_cannot_be_drawn_is_refused_in_one_line(
    refused, text_model, class_model, vae, tmp_path
):
    draws = ["generate", "--model"]
    assert "no model 'nowhere'" in refused(*draws, "nowhere", "x")
    assert "needs a prompt" in refused(*draws, text_model)
    assert "cat, dog" in refused(*draws, class_model)
    assert "['bird']" in refused(*draws, class_model, "bird")
    assert "takes no text" in refused(*draws, vae, "x")
    assert "has no --steps" in refused(*draws, vae, "--steps", 3)
    assert "multiples of 2" in refused(*draws, text_model, "x", "--size", "15")
    assert "--solver must be" in refused(*draws, text_model, "x", "--solver", "magic")
    assert ".webp" in refused(*draws, text_model, "x", "--output", tmp_path / "x.bmp")
    assert "invalid choice" in refused("generate", "x", "--upscale", 3)
    (tmp_path / "no.png").write_bytes(b"no picture at all, only a text")
    assert "be read" in refused("info", tmp_path / "no.png", code=1)
    assert "be read" in refused("edit", tmp_path / "no.png", "x", code=1)
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    assert "does not say" in refused("generate", "--like", tmp_path / "plain.png")
    black = ["--mask", tmp_path / "plain.png", "--model", text_model]
    assert "nothing to paint" in refused("edit", tmp_path / "plain.png", "x", *black)


def test_the_shipped_model_is_found_by_its_name(monkeypatch, tmp_path):
    from kgen.cli.models import locate, model_names

    monkeypatch.chdir(tmp_path)
    assert (locate("text_to_image") / "weights.npz").is_file()
    assert {"text_to_image", "vae_mnist"} <= set(model_names())
    assert "minilm_l6_v2" not in model_names()
