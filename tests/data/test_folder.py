"""A person's own pictures: what is read is what was drawn, and what is broken is named."""

import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kgen
from kgen.data import folder
from kgen.data.folder.finding import SUFFIXES
from kgen.networks import mlp

SIZE = 8
RED, GREEN = (255, 0, 0), (0, 128, 0)


def draw(path, colour=RED, size=(SIZE, SIZE), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


@pytest.fixture
def pictures(tmp_path):
    for i in range(5):
        draw(tmp_path / f"{i}.png", (50 * i, 0, 0))
    return tmp_path


def only(directory, **options):
    images, columns = folder.load_arrays(directory, SIZE, **options)
    assert len(images) == 1
    assert not columns
    return images[0]


def grey_ramp(path, top, **options):
    values = np.linspace(0, top, SIZE).round()
    image = np.tile(values, [SIZE, 1]).astype("uint16" if top > 255 else "uint8")
    Image.fromarray(image).save(path, **options)


@pytest.mark.parametrize(
    ("name", "colour", "mode", "options", "expected"),
    [
        ("a.png", RED, "RGB", {}, RED),
        ("a.PNG", 77, "L", {}, (77, 77, 77)),
        ("a.webp", RED, "RGB", {"lossless": True}, RED),
        ("a.bmp", GREEN, "RGB", {}, GREEN),
        ("a.gif", RED, "RGB", {}, RED),
        ("a.png", (255, 0, 0, 0), "RGBA", {}, (255, 255, 255)),
        ("a.png", (0, 0, 0, 51), "RGBA", {}, (204, 204, 204)),
        ("a.png", (100, 0), "LA", {}, (255, 255, 255)),
        ("a.png", 0, "P", {"transparency": 0}, (255, 255, 255)),
        ("a.png", 1, "1", {}, (255, 255, 255)),
        ("sub/b/a.png", RED, "RGB", {}, RED),
    ],
)
def test_every_kind_of_picture_is_colour_on_white(tmp_path, name, colour, mode, options, expected):
    draw(tmp_path / name, colour, mode=mode, **options)
    assert np.abs(only(tmp_path).astype(int) - expected).max() <= 1


def test_jpeg_and_its_print_colours(tmp_path):
    draw(tmp_path / "a.jpeg", (0, 255, 255, 0), mode="CMYK")  # magenta and yellow
    assert np.abs(only(tmp_path).astype(int) - RED).max() <= 12


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path):
    grey_ramp(tmp_path / "a.png", 65535)
    np.testing.assert_allclose(only(tmp_path, channels=1)[0, :, 0], np.linspace(0, 255, 8), atol=1)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    grey_ramp(tmp_path / "a.png", 255, exif=exif)
    x = only(tmp_path, channels=1)[..., 0].astype(int)
    assert (np.ptp(x, axis=1) == 0).all()
    assert (np.diff(x[:, 0]) > 0).all()


def test_crop_takes_the_middle_and_pad_all(tmp_path):
    image = Image.new("RGB", (3 * SIZE, SIZE), GREEN)
    image.paste(RED, (SIZE, 0, 2 * SIZE, SIZE))
    image.save(tmp_path / "a.png")
    assert (only(tmp_path) == RED).all()
    padded = only(tmp_path, resize="pad").astype(int)
    assert (padded[[0, -1]] == 255).all()
    assert np.abs(padded[SIZE // 2, SIZE // 2] - RED).max() < 40
    assert np.abs(padded[SIZE // 2, 0] - GREEN).max() < 40


def test_batches_have_a_length_an_order_and_a_range(pictures):
    def reds(data):
        return [round(127.5 * (float(x[0, 0, 0]) + 1)) for batch in data for x in batch]

    data = folder.load(pictures, SIZE, batch_size=2, seed=1)
    assert len(data) == 3
    first, second = reds(data), reds(data)
    assert sorted(first) == sorted(second) == [0, 50, 100, 150, 200]
    assert first != second
    assert reds(folder.load(pictures, SIZE, batch_size=2, seed=1)) == first
    assert reds(folder.load(pictures, SIZE, shuffle=False)) == [0, 50, 100, 150, 200]
    unit = next(iter(folder.load(pictures, SIZE, values="unit", channels=1, shuffle=False)))
    assert unit.shape == (5, SIZE, SIZE, 1)
    # the luma of red is 0.299
    assert float(unit[4, 0, 0, 0]) == pytest.approx(0.299 * 200 / 255, abs=0.005)


def test_a_model_is_trained_on_a_folder(pictures):
    shape = (SIZE, SIZE, 3)
    model = kgen.VAE(
        mlp(shape, (4,), hidden=(8,)),
        mlp((2,), shape, hidden=(8,)),
        kgen.likelihoods.GaussianLikelihood(0.5),
    )
    model.compile("adam")
    history = model.fit(folder.load(pictures, SIZE, batch_size=2), epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


# -- captions ---------------------------------------------------------------------------------


def pairs(directory, **options):
    batch = next(iter(folder.load(directory, SIZE, batch_size=100, shuffle=False, **options)))
    reds = np.round(127.5 * (batch["images"].numpy()[:, 0, 0, 0] + 1)).astype(int)
    return dict(zip(reds.tolist(), [p.decode() for p in batch["prompts"].numpy()]))


def test_text_files(pictures):
    for i in range(5):
        (pictures / f"{i}.txt").write_text(f" red,\t{50 * i}  \N{SNOWMAN}\n\n", encoding="utf-8")
    assert pairs(pictures, captions="txt") == {
        50 * i: f"red, {50 * i} \N{SNOWMAN}" for i in range(5)
    }


@pytest.mark.parametrize("name", ["captions.csv", "metadata.csv"])
@pytest.mark.parametrize("header", ["file_name,caption", "text,File", "\ufeffimage,prompt,extra"])
def test_a_table(pictures, name, header):
    swapped = header.startswith("text")
    rows = [[f"{i}.png", f'"red, {50 * i}"'][:: -1 if swapped else 1] for i in range(5)]
    text = "\n".join([header, *(",".join(row) for row in rows)])
    (pictures / name).write_text(text, encoding="utf-8")
    assert pairs(pictures, captions="csv") == {50 * i: f"red, {50 * i}" for i in range(5)}


def test_folders_are_classes(tmp_path):
    draw(tmp_path / "dogs" / "0.png", RED)
    draw(tmp_path / "cats" / "far" / "1.png", GREEN)
    draw(tmp_path / ".hidden" / "2.png", GREEN)
    assert folder.classes(tmp_path) == ["cats", "dogs"]
    batch = next(iter(folder.load(tmp_path, SIZE, captions="folders")))
    is_red = batch["images"].numpy()[:, 0, 0, 0] > 0
    np.testing.assert_array_equal(batch["labels"], is_red.astype(int))
    assert batch["labels"].dtype == tf.int32


# -- what is broken ---------------------------------------------------------------------------


def truncated(path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype="uint8")).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN = {
    "truncated.jpg": truncated,
    "truncated.png": truncated,
    "truncated.webp": truncated,
    "truncated.gif": truncated,
    "header.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "text.png": lambda path: path.write_text("a heart"),
    "empty.png": lambda path: path.touch(),
    "zeros.jpg": lambda path: path.write_bytes(bytes(1000)),
    "page.jpeg": lambda path: path.write_text("<html>404</html>"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_named(pictures, name):
    BROKEN[name](pictures / name)
    with pytest.raises(ValueError, match=f"Received: .*{re.escape(name)} cannot be read"):
        folder.load(pictures, SIZE)
    with pytest.warns(UserWarning, match=f"Left out: .*{re.escape(name)} cannot be read"):
        data = folder.load(pictures, SIZE, batch_size=1, on_error="skip")
    assert len(data) == 5


def test_of_many_broken_pictures_the_first_are_named(pictures):
    for i in range(9):
        (pictures / f"broken_{i}.png").touch()
    with pytest.raises(ValueError, match=r"broken_0\.png.*broken_4\.png.*and 4 more"):
        folder.load(pictures, SIZE)


def test_nothing_but_broken_pictures(tmp_path):
    (tmp_path / "a.png").touch()
    with (
        pytest.warns(UserWarning, match=r"a\.png"),
        pytest.raises(ValueError, match="must hold a usable picture"),
    ):
        folder.load(tmp_path, SIZE, on_error="skip")


@pytest.mark.parametrize("captions", ["txt", "csv"])
def test_a_caption_without_a_picture_and_a_picture_without_a_caption(pictures, captions):
    rows = {f"{i}.png": f"red {i}" for i in range(4)} | {"7.png": "blue"}
    if captions == "txt":
        for name, text in rows.items():
            (pictures / name).with_suffix(".txt").write_text(text)
    else:
        lines = ["file_name,caption", *(f"{name},{text}" for name, text in rows.items())]
        (pictures / "captions.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"4\.png has no caption.*7\.\w+ has no picture"):
        folder.load(pictures, SIZE, captions=captions)
    with pytest.warns(UserWarning, match=r"4\.png has no caption.*7\.\w+ has no picture"):
        data = folder.load(pictures, SIZE, captions=captions, on_error="skip", batch_size=1)
    assert len(data) == 4


def test_a_picture_in_no_folder_of_a_class(pictures):
    draw(pictures / "cats" / "a.png")
    with pytest.raises(ValueError, match=r"0\.png is in no folder of a class"):
        folder.load(pictures, SIZE, captions="folders")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"captions\.csv must have a column of"),
        (
            "a,b\n0.png,red\n",
            r"captions\.csv must have a column of .* Received: columns \['a', 'b'\]",
        ),
        ("file,text\n0.png,red\n0.png,red\n", r"captions\.csv must name a picture once.*'0\.png'"),
        (b"file,text\n0.png,\xff\n", r"captions\.csv must be text in UTF-8"),
        ('file,text\n0.png,"red\n', r"captions\.csv must be a table"),
    ],
)
def test_a_broken_table(pictures, table, message):
    path = pictures / "captions.csv"
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(ValueError, match=message):
        folder.load(pictures, SIZE, captions="csv")


def test_missing_things(tmp_path, pictures):
    with pytest.raises(FileNotFoundError, match="`directory` must be a folder.*nowhere"):
        folder.load(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "notes.txt").touch()
    with pytest.raises(ValueError, match="`directory` must hold pictures.*bare, which has none"):
        folder.load(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match=r"captions\.csv or metadata\.csv"):
        folder.load(pictures, captions="csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_read(tmp_path, suffix):
    options = {"format": "JPEG"} if suffix == ".jfif" else {}
    draw(tmp_path / f"a{suffix.upper()}", RED, **options)
    np.testing.assert_allclose(only(tmp_path).mean((0, 1)), RED, atol=8)


@pytest.mark.parametrize(
    ("values", "expected"), [(np.uint16(257 * 77), 77), (np.int32(77), 77), (np.uint8(77), 77)]
)
def test_whole_numbers_of_a_tiff_are_grey_levels(tmp_path, values, expected):
    image = np.full((SIZE, SIZE), values)
    image[0, 0] = 257 * 255 if image.dtype == np.uint16 else 255
    Image.fromarray(image).save(tmp_path / "a.tiff")
    assert np.median(only(tmp_path)) == expected


def test_real_numbers_of_a_tiff_are_refused(tmp_path):
    """Nobody says whether they end at 1 or at 255."""
    Image.fromarray(np.full((SIZE, SIZE), 0.5, "float32")).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="must be integers, not floating-point"):
        only(tmp_path)
