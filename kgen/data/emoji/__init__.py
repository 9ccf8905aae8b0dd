"""Captioned emoji: 64 x 64 pictures on white in seven styles, with their words.

The same concept ("red heart") occurs in several styles ("noto", "twemoji", ...). The splits are
disjoint in concepts: no test caption occurs in training in any style.

The argument `captions` of `load` chooses the prompt of a picture:

    "label"      red heart
    "styled"     red heart, noto
    "composed"   drawn again in each epoch: half "label, style", a quarter "label",
                 a quarter "label, tag[, tag][, style]"

Recolouring is an augmentation that teaches colour words. The hues of a picture with one dominant
hue h (measured at build time, see `tools/emoji.py`) are shifted by h' - h, where h' is the hue of a
colour word, at the same saturation and value in HSV; "apple" becomes "blue apple".

The data are a TFDS data set in this folder; `python -m tools.emoji --help` rebuilds them.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_interval
from kgen.data.emoji.captions import digest, normalise
from kgen.files.records import check_data_set
from kgen.types import Path

__all__ = [
    "COLOURS",
    "SPLITS",
    "STYLES",
    "gallery",
    "load",
    "load_arrays",
    "normalise",
]

STYLES = ("twemoji", "noto", "noto v1", "fluent", "fluent flat", "emojione", "fxemoji")
SPLITS = ("train", "test")
CAPTIONS = ("label", "styled", "composed")
COLOURS = {
    "red": 0.0,
    "orange": 30 / 360,
    "yellow": 55 / 360,
    "green": 120 / 360,
    "blue": 220 / 360,
    "purple": 275 / 360,
    "pink": 330 / 360,
}

FOLDER = pathlib.Path(__file__).parent / "1.0.0"
_MIN_CONCENTRATION = 0.9
_MIN_TURN = 0.11
_SIZE = b"\0\0\0\x40" * 2  # width and height of a picture in the header of a PNG
_FIXED_COLOUR_WORDS = (
    "red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ae]y|gold|golden|silver|rainbow"
    "|dark|light|blond|bald|colored|skin|tone|hair|flag|flags|japan|japanese|america|americas"
    "|american|africa|asia|europe|european|australia"
)


def load(
    split: Literal["train", "test"] = "train",
    *,
    batch_size: int = 64,
    styles: Sequence[str] | None = None,
    captions: Literal["label", "styled", "composed"] = "composed",
    recolour: float = 0.0,
    shuffle: bool | None = None,
    seed: int = 0,
    repeat: bool = False,
    drop_remainder: bool = False,
    data_dir: Path | None = None,
) -> tf.data.Dataset:
    """Returns the batches of one split, ready for `model.fit`.

    Args:
        split: `"train"` or `"test"`.
        batch_size: number of pictures in a batch, a positive integer.
        styles: sequence of names of `STYLES`, or None for all.
        captions: `"label"`, `"styled"` or `"composed"`.
        recolour: probability in [0, 1] of recolouring a picture, if its colour can be changed.
        shuffle: whether to shuffle again in each epoch; None for the training split only.
        seed: integer seed of the order, the captions and the colours.
        repeat: whether the data set repeats without end.
        drop_remainder: whether to drop an incomplete last batch.
        data_dir: folder of the prepared data set; None for the one in this package.

    Returns:
        A `tf.data.Dataset` of `{"images": float32 [B, 64, 64, 3] in [-1, 1], "prompts": string
        [B]}`.

    Raises:
        ValueError: if an argument has another value, or `data_dir` holds no data set.

    Example:
    >>> batch = next(iter(load("test", batch_size=4, captions="styled")))
    >>> batch["images"].shape
    TensorShape([4, 64, 64, 3])
    """
    _check_choice("captions", captions, CAPTIONS)
    check_count("batch_size", batch_size)
    check_interval("recolour", recolour, "[0, 1]")
    examples, count = _examples(split, styles, data_dir)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    options.deterministic = True
    if shuffle or (shuffle is None and split == "train"):
        examples = examples.shuffle(count, seed=seed, reshuffle_each_iteration=True)
    if repeat:
        examples = examples.repeat()
    draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, True)
    make = functools.partial(_picture_and_prompt, captions=captions, recolour=recolour)
    pairs = tf.data.Dataset.zip(examples, draws).map(make, num_parallel_calls=tf.data.AUTOTUNE)
    batches = pairs.batch(batch_size, drop_remainder=drop_remainder)
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def load_arrays(
    split: Literal["train", "test"] = "train",
    styles: Sequence[str] | None = None,
    *,
    data_dir: Path | None = None,
) -> dict[str, np.ndarray]:
    """Returns one split in memory, for evaluation.

    Args:
        split: `"train"` or `"test"`.
        styles: sequence of names of `STYLES`, or None for all.
        data_dir: folder of the prepared data set; None for the one in this package.

    Returns:
        A dictionary of arrays: `images` uint8 `[N, 64, 64, 3]`, and `captions`, `styles`, `tags`
        (joined by "|") and `groups`, strings `[N]`.

    Raises:
        ValueError: if an argument has another value, or `data_dir` holds no data set.

    Example:
    >>> arrays = load_arrays("test", styles=["noto"])
    >>> arrays["images"].shape[1:]
    (64, 64, 3)
    """
    examples, count = _examples(split, styles, data_dir)
    decoded = examples.map(lambda row: {**row, "image": _decode(row["image"])})
    rows = next(decoded.batch(count).as_numpy_iterator())
    texts = {"captions": "caption", "styles": "style", "tags": "tags", "groups": "group"}
    columns = {name: np.array([text.decode() for text in rows[texts[name]]]) for name in texts}
    return {"images": rows["image"], **columns}


def gallery(
    split: Literal["train", "test"] = "test",
    size: int = 200,
    style: str = "noto",
    *,
    data_dir: Path | None = None,
) -> list[str]:
    """Returns a fixed set of captions, selected by their hash, that have a picture in a style.

    Args:
        split: `"train"` or `"test"`.
        size: largest number of captions, a positive integer.
        style: the style in which each caption has a picture.
        data_dir: folder of the prepared data set; None for the one in this package.

    Returns:
        A list of captions of different keys, in the order of the sha256 of `normalise(caption)`.

    Raises:
        ValueError: if an argument has another value, or `data_dir` holds no data set.

    Example:
    >>> len(gallery("test", size=20))
    20
    """
    check_count("size", size)
    _check_choice("style", style, STYLES)
    examples, _ = _examples(split, [style], data_dir)
    captions = sorted({row["caption"].numpy().decode() for row in examples}, reverse=True)
    by_digest = {digest(caption): caption for caption in captions}
    return [caption for _, caption in sorted(by_digest.items())[:size]]


def recoloured(image: tf.Tensor, hue: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Shifts the hues of a picture by `target - hue`.

    Args:
        image: float32 `[H, W, 3]` in [0, 1].
        hue: the dominant hue in [0, 1), where 0 is red and 1/3 green.
        target: the hue that replaces it.

    Returns:
        float32 `[H, W, 3]` in [0, 1].
    """
    hsv = tf.image.rgb_to_hsv(image)
    turned = tf.math.floormod(hsv[..., :1] + target - hue, 1.0)
    return tf.image.hsv_to_rgb(tf.concat([turned, hsv[..., 1:]], axis=-1))


def _check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}. Received: {name}={value!r}.")


def _examples(
    split: Literal["train", "test"], styles: Sequence[str] | None, data_dir: Path | None
) -> tuple[tf.data.Dataset, int]:
    """Returns the undecoded examples of a split in the given styles, and their number."""
    import tensorflow_datasets as tfds

    _check_choice("split", split, SPLITS)
    if styles is not None:
        if isinstance(styles, str) or not styles:
            raise ValueError(
                f"`styles` must be a sequence of some of {list(STYLES)}, or None. "
                f"Received: {styles=}."
            )
        for style in styles:
            _check_choice("styles", style, STYLES)
    folder = pathlib.Path(data_dir or FOLDER)
    if not (folder / "dataset_info.json").is_file():
        raise ValueError(
            "`data_dir` must be a folder with a prepared data set (dataset_info.json). "
            f"Received: data_dir={data_dir!r}."
        )
    check_data_set(folder)
    builder = tfds.builder_from_directory(str(folder))
    examples = builder.as_dataset(
        split=split,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    count = builder.info.splits[split].num_examples
    if styles is not None:
        wanted = tf.constant(list(styles))
        examples = examples.filter(lambda row: tf.reduce_any(row["style"] == wanted))
        count = int(examples.reduce(0, lambda total, _: total + 1))
        examples = examples.apply(tf.data.experimental.assert_cardinality(count))
    return examples, count


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    # Checked in the header, before memory for a larger picture is allocated.
    same = tf.strings.substr(encoded, 16, 8) == _SIZE
    with tf.control_dependencies(
        [tf.debugging.Assert(same, ["A picture must be 64 x 64 pixels."])]
    ):
        encoded = tf.identity(encoded)
    return tf.ensure_shape(tf.io.decode_png(encoded, channels=3), (64, 64, 3))


def _picture_and_prompt(
    row: dict[str, tf.Tensor], draws: tf.Tensor, captions: str, recolour: float
) -> dict[str, tf.Tensor]:
    image = tf.cast(_decode(row["image"]), tf.float32) / 255.0
    seeds = tf.random.experimental.stateless_split(draws, 3)
    label, tags = row["caption"], row["tags"]
    if recolour > 0.0:
        drawn = tf.random.stateless_uniform([], seeds[1]) < recolour
        turn = drawn & _has_free_colour(row)
        name, target = _other_colour(row["hue"], seeds[2])
        image = tf.cond(turn, lambda: recoloured(image, row["hue"], target), lambda: image)
        label = tf.where(turn, tf.strings.join([name, label], " "), label)
        tags = tf.where(turn, "", tags)  # a tag may name the old colour
    if captions == "composed":
        prompt = _composed(label, row["style"], tags, seeds[0])
    else:
        prompt = label if captions == "label" else tf.strings.join([label, row["style"]], ", ")
    return {"images": image * 2.0 - 1.0, "prompts": prompt}


def _has_free_colour(row: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns whether a picture has one dominant hue, no colour in its caption, and no person."""
    named = tf.strings.regex_full_match(row["caption"], rf"(.*\b)?({_FIXED_COLOUR_WORDS})(\b.*)?")
    free = ~named & (row["group"] != "people-body")
    return free & (row["hue_concentration"] >= _MIN_CONCENTRATION)


def _other_colour(hue: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws one of `COLOURS` that differs visibly from `hue`; returns its name and its hue."""
    targets = tf.constant(list(COLOURS.values()))
    distance = tf.abs(tf.math.floormod(targets - hue + 0.5, 1.0) - 0.5)
    scores = tf.random.stateless_uniform([len(COLOURS)], seed)
    index = tf.argmax(tf.where(distance > _MIN_TURN, scores, -1.0))
    return tf.constant(list(COLOURS))[index], targets[index]


def _composed(label: tf.Tensor, style: tf.Tensor, tags: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws a caption: the label, in some cases with tags or the style."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    kind = tf.random.stateless_uniform([], seeds[0])
    styled = tf.random.stateless_uniform([], seeds[1]) < 0.5
    words = tf.strings.split(tags, "|")
    words = tf.boolean_mask(words, words != "")
    words = tf.random.experimental.stateless_shuffle(words, seeds[2])
    with_tags = kind >= 0.75
    with_style = (kind < 0.5) | (with_tags & styled)
    num_tags, num_styles = tf.where(with_tags, 2, 0), tf.where(with_style, 1, 0)
    parts = [label[None], words[:num_tags], style[None][:num_styles]]
    return tf.strings.reduce_join(tf.concat(parts, axis=0), separator=", ")
