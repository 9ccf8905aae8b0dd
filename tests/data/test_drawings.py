"""The drawings: what `load` makes of a small set, and what it says of a missing or damaged one."""

import colorsys
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from kgen.data import drawings, emoji
from kgen.data.drawings import files
from tools.drawings.write import write

from .drawings_pictures import COLOURS, SAID, islands, square

Image = pytest.importorskip("PIL.Image")


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def row(caption, colour, style="noto", noun=None, tags="", turns=""):
    hue = colorsys.rgb_to_hsv(*COLOURS[colour])[0]
    return {
        "image": png(square(COLOURS[colour], 40 + len(caption) * 5)),
        "caption": caption,
        "tags": tags,
        "style": style,
        "group": "objects",
        "concept": caption,
        "noun": caption if noun is None else noun,
        "colour": colour,
        "turns": turns,
        "hue": hue,
    }


ROWS = {
    "train": [
        row("ball", "red", tags="toy|sphere", turns="green|blue"),
        row("box", "blue"),
        row("door", "green"),
        row("water", "blue", noun="", turns="green"),
        row("box", "red", style="clip art"),
        row("kite", "green", style="clip art"),
    ],
    "test": [row("cup", "red"), row("hat", "blue")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawings") / "built"
    write(ROWS, folder, [{"style": "noto", "licence": "Apache-2.0"}])
    return folder


def prompts_of(dataset):
    return [prompt.decode() for batch in dataset for prompt in batch["prompts"].numpy()]


def pairs_of(dataset):
    for batch in dataset:
        images = np.rint((batch["images"].numpy() + 1) * 127.5).astype("uint8")
        yield from zip(images, (prompt.decode() for prompt in batch["prompts"].numpy()))


def test_import_loads_nothing_that_only_the_builder_needs():
    code = (
        "import sys, kgen, kgen.data.drawings\n"
        "heavy = ('tensorflow_datasets', 'resvg_py', 'tqdm', 'tools')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_batches_have_the_shapes_and_ranges_of_the_contract(folder):
    batches = drawings.load("train", batch_size=4, data_dir=folder)
    assert batches.element_spec["images"].shape.as_list() == [None, 128, 128, 3]
    batch = next(iter(batches))
    assert batch["images"].shape == (4, 128, 128, 3)
    assert batch["images"].dtype == tf.float32
    assert batch["prompts"].dtype == tf.string
    assert batch["images"][:, 0, 0].numpy().min() == 1.0
    assert batch["images"].numpy().min() == -1.0


def test_what_was_written_is_read_back(folder):
    for split, rows in ROWS.items():
        arrays = drawings.load_arrays(split, data_dir=folder)
        by_key = {(r["caption"], r["style"]): r for r in rows}
        assert len(arrays["images"]) == len(rows)
        for image, caption, style, tags, turns in zip(
            *(arrays[key] for key in ("images", "captions", "styles", "tags", "turns"))
        ):
            expected = by_key.pop((caption, style))
            picture = np.asarray(Image.open(io.BytesIO(expected["image"])))
            np.testing.assert_array_equal(image, picture)
            assert (tags, turns) == (expected["tags"], expected["turns"])
        assert not by_key
    assert drawings.styles_of(folder) == ["noto", "clip art"]
    assert drawings.gallery("test", size=5, data_dir=folder) in (["cup", "hat"], ["hat", "cup"])
    index = json.loads((folder / "drawings.json").read_text())
    assert index["splits"]["train"]["examples"] == 6
    assert index["attribution"] == [{"style": "noto", "licence": "Apache-2.0"}]


def test_labels_alone_are_the_stored_pictures(folder):
    options = dict(captions="label", recolour=0.0, compose=0.0, data_dir=folder)
    prompts = prompts_of(drawings.load("train", **options))
    assert sorted(prompts) == sorted(r["caption"] for r in ROWS["train"])
    styled = prompts_of(
        drawings.load("train", styles=["clip art"], **options | {"captions": "styled"})
    )
    assert sorted(styled) == ["box, clip art", "kite, clip art"]


def test_recoloured_pictures_have_the_colour_of_their_prompt(folder):
    options = dict(captions="label", recolour=1.0, compose=0.0, data_dir=folder)
    seen = set()
    for seed in range(4):
        for picture, prompt in pairs_of(drawings.load("train", seed=seed, **options)):
            if prompt in ("green ball", "blue ball", "green water"):
                seen.add(prompt)
                hue = colorsys.rgb_to_hsv(*picture[64, 64].tolist())[0]
                assert hue == pytest.approx(emoji.COLOURS[prompt.split()[0]], abs=0.02)
            else:
                assert prompt in ("box", "door", "kite")
    assert seen == {"green ball", "blue ball", "green water"}


def test_scenes_show_what_their_prompt_says(folder):
    options = dict(recolour=0.0, compose=1.0, data_dir=folder, shuffle=False)
    numbers, checked = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}, 0
    thing = r"(an?|two|three|four)( red| green| blue)? (ball|box|door|kite)\w*"
    before = {"left": (1, -1), "right": (1, 1), "above": (0, -1), "below": (0, 1)}
    for seed in range(30):
        for picture, prompt in pairs_of(drawings.load("train", seed=seed, **options)):
            if "water" in prompt:
                continue
            found = re.findall(thing, prompt)
            drawn = picture.min(axis=-1) < 128
            assert islands(drawn) == sum(numbers[number] for number, _, _ in found), prompt
            where = [key for key, said in SAID.items() if re.search(said, prompt)]
            colours = [colour.strip() for _, colour, _ in found]
            if len(where) == 1 and all(colours) and colours[0] != colours[1]:
                axis, sign = before[where[0]]
                hues = [colorsys.rgb_to_hsv(*COLOURS[c])[0] for c in colours]
                pixels = np.argwhere(drawn)
                own = np.array(
                    [colorsys.rgb_to_hsv(*picture[tuple(p)].tolist())[0] for p in pixels]
                )
                means = [pixels[np.abs(own - hue) < 0.08].mean(axis=0)[axis] for hue in hues]
                assert sign * (means[0] - means[1]) > 30, prompt
                checked += 1
    assert checked >= 5


def test_scenes_keep_to_one_style_and_one_split(folder):
    options = dict(recolour=0.5, compose=1.0, data_dir=folder)
    for seed in range(10):
        clip_art = prompts_of(drawings.load("train", styles=["clip art"], seed=seed, **options))
        assert not re.search("ball|door|noto", " ".join(clip_art))
        held_out = prompts_of(drawings.load("test", seed=seed, **options))
        assert all(re.search(r"\b(cup|hat)s?\b", prompt) for prompt in held_out)
        assert not re.search("ball|box|door|kite|water", " ".join(held_out))


def test_everything_follows_from_the_seed(folder):
    def two_epochs(seed):
        dataset = drawings.load("train", seed=seed, compose=0.7, data_dir=folder)
        return [[(image.sum(), prompt) for image, prompt in pairs_of(dataset)] for _ in range(2)]

    first, second = two_epochs(5)
    assert [first, second] == two_epochs(5)
    assert first != second
    assert first != two_epochs(6)[0]


def test_repeat_and_drop_remainder(folder):
    once = drawings.load("train", batch_size=4, data_dir=folder)
    assert [len(batch["prompts"]) for batch in once] == [4, 2]
    assert once.cardinality() == 2
    assert (
        len(list(drawings.load("train", batch_size=4, drop_remainder=True, data_dir=folder))) == 1
    )
    endless = drawings.load("test", batch_size=2, repeat=True, data_dir=folder)
    assert [len(batch["prompts"]) for batch in endless.take(5)] == [2] * 5


def test_a_missing_data_set_says_how_to_build_it(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"python -m tools.drawings --output .*nowhere"):
        drawings.load(data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    for call in (drawings.load, drawings.load_arrays, drawings.gallery, drawings.styles_of):
        with pytest.raises(FileNotFoundError, match="python -m tools.drawings --output"):
            call()


def test_damaged_files_are_refused(tmp_path):
    folder = tmp_path / "built"
    write(ROWS, folder, [])
    (shard,) = folder.glob("*test*.tfrecord")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="damaged"):
        drawings.load("test", data_dir=folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="test-00000-of-00001.* is missing"):
        drawings.load("test", data_dir=folder)
    index = json.loads((folder / files.INDEX).read_text())
    (folder / files.INDEX).write_text(json.dumps({**index, "version": "0.1"}))
    with pytest.raises(ValueError, match=r"version 1\.0\.0 .*version '0\.1'"):
        drawings.load("train", data_dir=folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(split="val"), r"`split`.*\['train', 'test'\].*split='val'"),
        (dict(styles=["apple"]), r"`styles`.*'noto', 'clip art'.*'apple'"),
        (dict(styles="noto"), r"`styles`.*sequence.*styles='noto'"),
        (dict(batch_size=0), r"`batch_size`.*at least 1.*batch_size=0"),
        (dict(captions="long"), r"`captions`.*'label', 'styled'.*captions='long'"),
        (dict(recolour=1.5), r"`recolour`.*\[0, 1\].*recolour=1.5"),
        (dict(compose=-1.0), r"`compose`.*\[0, 1\].*compose=-1"),
    ],
)
def test_errors_name_argument_allowed_values_and_received(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        drawings.load(**arguments, data_dir=folder)
