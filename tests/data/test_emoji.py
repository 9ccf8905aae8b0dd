"""The captioned emoji: the split, the pictures, the captions and the colours."""

import colorsys
import hashlib
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from kgen.data import emoji
from kgen.data.emoji.captions import caption_of_label, clean_tags, split_of

# Degrees on the colour wheel that the words cover, wider than any one choice of a hue.
HUES = {
    "red": (-15, 15),
    "orange": (15, 45),
    "yellow": (45, 70),
    "green": (80, 160),
    "blue": (195, 250),
    "purple": (255, 300),
    "pink": (305, 345),
}


@pytest.fixture(scope="module")
def splits():
    return {split: emoji.load_arrays(split) for split in ("train", "test")}


def prompts_of(dataset):
    return [prompt.decode() for batch in dataset for prompt in batch["prompts"].numpy()]


def dominant_hue(image):
    """The chroma-weighted mean hue in degrees, pixel by pixel with colorsys."""
    vector = 0.0
    for red, green, blue in image.reshape(-1, 3).tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        vector += saturation * value * np.exp(2j * np.pi * hue)
    return np.degrees(np.angle(vector))


def is_in(hue, bounds):
    low, high = bounds
    return (hue - low) % 360 <= high - low


def test_import_loads_no_heavy_package():
    code = (
        "import sys, kgen, kgen.data.emoji\n"
        "print([m for m in ('tensorflow_datasets', 'resvg_py', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_batches_have_the_shapes_and_ranges_of_the_contract():
    batch = next(iter(emoji.load("test", batch_size=64)))
    images, prompts = batch["images"], batch["prompts"]
    assert images.shape == (64, 64, 64, 3)
    assert images.dtype == tf.float32
    assert prompts.shape == (64,)
    assert prompts.dtype == tf.string
    corners = images[:, 0, 0].numpy()
    assert np.median(corners) == 1.0  # white is the top of the range
    assert images.numpy().min() < -0.9
    assert images.numpy().min() >= -1.0
    assert images.numpy().max() <= 1.0


def test_pictures_are_the_stored_ones_in_the_stored_order(splits):
    batch = next(iter(emoji.load("test", batch_size=50, captions="label")))
    restored = np.rint((batch["images"].numpy() + 1) * 127.5)
    np.testing.assert_array_equal(restored, splits["test"]["images"][:50])
    assert prompts_of([batch]) == splits["test"]["captions"][:50].tolist()


def test_every_picture_comes_once_an_epoch(splits):
    dataset = emoji.load("train", captions="styled")
    arrays = splits["train"]
    expected = [f"{label}, {style}" for label, style in zip(arrays["captions"], arrays["styles"])]
    received = prompts_of(dataset)
    assert received != expected
    assert sorted(received) == sorted(expected)
    assert dataset.cardinality() == -(-len(expected) // 64)


def test_repeat_and_drop_remainder(splits):
    size = int(np.sum(splits["test"]["styles"] == "noto"))
    assert 100 < size < 400
    whole = emoji.load("test", batch_size=400, styles=["noto"])
    assert [len(batch["prompts"]) for batch in whole] == [size]
    assert len(list(emoji.load("test", batch_size=400, styles=["noto"], drop_remainder=True))) == 0
    endless = emoji.load("test", batch_size=100, styles=["noto"], repeat=True)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    assert [len(batch["prompts"]) for batch in endless.take(4)] == [100] * 4


def test_styles(splits):
    assert set(splits["train"]["styles"]) == set(emoji.STYLES)
    assert set(splits["test"]["styles"]) == set(emoji.STYLES)
    some = emoji.load_arrays("test", styles=["noto v1", "fluent"])
    assert set(some["styles"]) == {"noto v1", "fluent"}
    dataset = emoji.load("test", styles=["noto v1", "fluent"], captions="styled", batch_size=32)
    assert {prompt.rsplit(", ", 1)[1] for prompt in prompts_of(dataset)} == {"noto v1", "fluent"}
    assert sum(len(batch["prompts"]) for batch in dataset) == len(some["captions"])
    assert dataset.cardinality() == -(-len(some["captions"]) // 32)


def words(caption):
    """A cruder key than the library's: the words alone, whatever their order."""
    folded = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode().lower()
    return tuple(sorted(re.findall(r"[a-z0-9]+", folded)))


@pytest.mark.parametrize("key", [words, emoji.normalise])
def test_no_concept_straddles_the_split(splits, key):
    train, test = ({key(c) for c in splits[split]["captions"]} for split in ("train", "test"))
    assert not train & test


def test_a_tenth_of_the_captions_is_held_out_by_hash(splits):
    train, test = (set(splits[split]["captions"]) for split in ("train", "test"))
    assert 0.085 < len(test) / len(train | test) < 0.115
    for caption in train | test:
        digest = hashlib.sha256(emoji.normalise(caption).encode()).hexdigest()
        assert (caption in test) == (int(digest, 16) / 2**256 < 0.1)
        assert split_of(caption) == ("test" if caption in test else "train")


@pytest.mark.parametrize(
    "spellings",
    [
        ["flag of bulgaria", "Flag: Bulgaria", "flag for Bulgaria", "flag bulgaria"],
        ["flag of antigua and barbuda", "flag: Antigua & Barbuda"],
        ["pinata", "pi\u00f1ata"],
        ["flag of cote d'ivoire", "flag: C\u00f4te d\u2019Ivoire"],
        ["man walking", "man walking: facing right"],
        ["grey heart", "gray heart"],
        ["t-shirt", "T shirt"],
    ],
)
def test_spellings_of_one_concept_share_key_and_split(spellings):
    assert len({emoji.normalise(spelling) for spelling in spellings}) == 1
    assert len({split_of(spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("man", "woman"), ("keycap 1", "keycap 10"), ("a button", "b button"), ("on", "on with")],
)
def test_different_concepts_have_different_keys(one, other):
    assert (emoji.normalise(one) == emoji.normalise(other)) == (other == "on with")


def test_no_two_pictures_are_equal(splits):
    everything = np.concatenate([splits[split]["images"] for split in splits])
    assert len({picture.tobytes() for picture in everything}) == len(everything)
    assert everything.shape[1:] == (64, 64, 3)
    assert everything.dtype == np.uint8
    assert (everything.reshape(len(everything), -1).min(axis=1) < 250).all()


def test_there_are_no_skin_tones_and_no_typography(splits):
    for arrays in splits.values():
        assert not [caption for caption in arrays["captions"] if "skin tone" in caption]
        assert all(re.fullmatch(r"[a-z0-9 !'.,-]+", caption) for caption in arrays["captions"])


@pytest.mark.parametrize(
    ("label", "caption"),
    [
        ("flag: Bulgaria", "flag of bulgaria"),
        ("flag: Congo - Kinshasa", "flag of congo kinshasa"),
        ("flag: C\u00f4te d\u2019Ivoire", "flag of cote d'ivoire"),
        ("keycap: 5", "keycap 5"),
        ("keycap: #", "keycap number sign"),
        ("man: red hair", "man with red hair"),
        ("person: bald", "bald person"),
        ("family: man, woman, girl", "family of man, woman and girl"),
        ("woman running: facing right", "woman running facing right"),
        ("Japanese \u201copen for business\u201d button", "japanese open for business button"),
        ("A button (blood type)", "a button blood type"),
    ],
)
def test_labels_become_plain_words_and_lose_none(label, caption):
    assert caption_of_label(label) == caption
    folded = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    assert set(re.findall(r"[a-z0-9]+", folded)) - {"divoire"} <= set(re.findall(r"\w+", caption))


def test_tags_say_what_the_caption_does_not():
    tags = ["Red", "heart", "love", "red heart", "<3", "Love", "pi\u00f1a colada"]
    assert clean_tags(tags, "red heart") == ["love", "pina colada"]


def test_composed_captions_keep_the_label_and_have_the_stated_shares(splits):
    arrays = splits["train"]
    prompts = prompts_of(emoji.load("train", shuffle=False))
    kinds = {"label": 0, "style": 0, "tags": 0, "tags and style": 0}
    for prompt, label, style, tags in zip(
        prompts, arrays["captions"], arrays["styles"], arrays["tags"], strict=True
    ):
        assert prompt == label or prompt.startswith(label + ", ")
        rest = [part for part in prompt[len(label) :].split(", ") if part]
        styled = bool(rest) and rest[-1] == style
        chosen = rest[:-1] if styled else rest
        assert len(chosen) <= 2
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= set(tags.split("|"))
        if tags:
            name = ("tags and style" if styled else "tags") if chosen else "label"
            kinds["style" if styled and not chosen else name] += 1
    share = {kind: count / sum(kinds.values()) for kind, count in kinds.items()}
    expected = {"label": 0.25, "style": 0.5, "tags": 0.125, "tags and style": 0.125}
    assert share == pytest.approx(expected, abs=0.02)


def test_composed_captions_are_redrawn_each_epoch_and_follow_from_the_seed():
    def two_epochs(seed):
        dataset = emoji.load("test", styles=["noto"], shuffle=False, recolour=0.5, seed=seed)
        return prompts_of(dataset), prompts_of(dataset)

    first, second = two_epochs(3)
    assert (first, second) == two_epochs(3)
    assert first != second
    assert first != two_epochs(4)[0]
    order = [prompts_of(emoji.load("train", captions="styled", seed=s).take(2)) for s in (1, 1, 2)]
    assert order[0] == order[1]
    assert order[0] != order[2]


def test_a_red_picture_turns_blue():
    disc = np.ones((64, 64, 3), "float32")
    rows, columns = np.mgrid[:64, :64]
    disc[(rows - 32) ** 2 + (columns - 32) ** 2 < 400] = (0.9, 0.1, 0.1)
    blue = emoji.recoloured(disc, dominant_hue(disc) / 360, emoji.COLOURS["blue"]).numpy()
    assert is_in(dominant_hue(disc), HUES["red"])
    assert is_in(dominant_hue(blue), HUES["blue"])
    np.testing.assert_allclose(blue[0, 0], 1.0, atol=1e-6)
    for picture in (disc, blue):  # value and saturation stay
        assert colorsys.rgb_to_hsv(*picture[32, 32].tolist())[1:] == pytest.approx((8 / 9, 0.9))


@pytest.fixture(scope="module")
def recoloured(splits):
    """The pictures of the test split that were turned: (label, colour, new picture, old one)."""
    dataset = emoji.load("test", captions="label", recolour=1.0, batch_size=991)
    batch = next(iter(dataset))
    prompts, labels = prompts_of([batch]), splits["test"]["captions"]
    pairs = zip(prompts, labels, batch["images"].numpy(), splits["test"]["images"], strict=True)
    return [
        (label, prompt.split()[0], (image + 1) / 2, old)
        for prompt, label, image, old in pairs
        if prompt != label
    ]


def test_recoloured_pictures_have_the_colour_in_their_caption(recoloured):
    assert len(recoloured) > 100
    assert {colour for _, colour, _, _ in recoloured} == set(HUES)
    for label, colour, image, old in recoloured[::2]:
        assert is_in(dominant_hue(image), HUES[colour]), (label, colour)
        assert not is_in(dominant_hue(old / 255), (HUES[colour][0] + 8, HUES[colour][1] - 8))


def test_recolouring_leaves_alone_what_names_its_colour(splits, recoloured):
    fixed = "red orange yellow green blue purple pink brown black white flag hair skin japanese"
    for label, *_ in recoloured:
        assert not set(re.findall(r"\w+", label)) & set(fixed.split())
    turned = {label for label, *_ in recoloured}
    groups = dict(zip(splits["test"]["captions"], splits["test"]["groups"]))
    assert not {groups[label] for label in turned} & {"flags", "people-body"}


def test_recolour_is_a_probability(recoloured, splits):
    prompts = prompts_of(emoji.load("test", captions="label", recolour=0.3))
    turned = sum(a != b for a, b in zip(prompts, splits["test"]["captions"], strict=True))
    assert turned / len(recoloured) == pytest.approx(0.3, abs=0.1)
    assert prompts_of(emoji.load("test", captions="label")) == splits["test"]["captions"].tolist()


def test_recoloured_captions_name_no_tag(splits):
    labels = splits["test"]["captions"]
    prompts = prompts_of(emoji.load("test", recolour=1.0))
    turned = [prompt for prompt, label in zip(prompts, labels) if not prompt.startswith(label)]
    assert len(turned) > 100
    assert {part for prompt in turned for part in prompt.split(", ")[1:]} <= set(emoji.STYLES)


def test_the_gallery_is_chosen_by_hash(splits):
    names = emoji.gallery("test", size=50, style="twemoji")
    assert names == emoji.gallery("test", size=50, style="twemoji")
    arrays = splits["test"]
    pool = set(arrays["captions"][arrays["styles"] == "twemoji"])
    keys = {
        hashlib.sha256(emoji.normalise(caption).encode("utf-8")).hexdigest(): caption
        for caption in pool
    }
    assert set(names) <= pool
    chosen = [emoji.normalise(keys[digest]) for digest in sorted(keys)[:50]]
    assert [emoji.normalise(name) for name in names] == chosen


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: emoji.load("val"), r"`split`.*\['train', 'test'\].*split='val'"),
        (lambda: emoji.load_arrays("all"), r"`split`.*\['train', 'test'\].*split='all'"),
        (lambda: emoji.load(styles=["apple"]), r"`styles`.*'twemoji', 'noto'.*'apple'"),
        (lambda: emoji.load(styles="noto"), r"`styles`.*sequence.*styles='noto'"),
        (lambda: emoji.load(styles=[]), r"`styles`.*sequence.*styles=\[\]"),
        (lambda: emoji.load(batch_size=0), r"`batch_size`.*at least 1.*batch_size=0"),
        (lambda: emoji.load(batch_size=2.5), r"`batch_size`.*at least 1.*batch_size=2.5"),
        (lambda: emoji.load(captions="long"), r"`captions`.*'label', 'styled'.*captions='long'"),
        (lambda: emoji.load(recolour=1.5), r"`recolour`.*\[0, 1\].*recolour=1.5"),
        (lambda: emoji.load(data_dir="/nowhere"), r"`data_dir`.*folder.*data_dir='/nowhere'"),
        (lambda: emoji.gallery(style="apple"), r"`style`.*'noto'.*style='apple'"),
        (lambda: emoji.gallery(size=-1), r"`size`.*at least 1.*size=-1"),
    ],
)
def test_errors_name_argument_allowed_values_and_received(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_normalise_refuses_what_is_no_string():
    with pytest.raises(TypeError, match=r"`caption` must be a string. Received: caption=3"):
        emoji.normalise(3)
