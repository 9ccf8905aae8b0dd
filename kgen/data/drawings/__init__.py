"""Captioned drawings: 128 x 128 pictures on white in some thirty styles, and scenes made of them.

The drawings are emoji, clip art and coloured icons; one concept ("apple") occurs in many styles.
The splits are disjoint in concepts: no held-out concept occurs in training in any style, alone, as
a part of a caption, as a tag or in a scene.

The data set is not in the package; `python -m tools.drawings`, in a checkout of kgen, builds it
(`tools/drawings/README.md` has sources, licences and counts).

In each epoch, `load` draws one of these augmentations of a stored picture:

    alone       its caption, varied: "apple", "a red apple", "apple, fruit, noto"
    recoloured  its hue shifted to that of a colour word: "a blue apple"
    composed    with itself or with another picture of its style: "three apples",
                "a red apple left of a green pear"

They are computed when the data are read, so that every epoch has new scenes and the files stay
small, and they depend on `seed` only. For a fixed set, such as one to encode once, read one epoch.
"""

import functools
import io
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_interval, check_one_of
from kgen.data.drawings.files import SIZE, SPLITS, default_folder, read_index, read_rows
from kgen.data.drawings.scenes import Thing, draw_count, draw_pair, draw_thing
from kgen.data.drawings.words import article
from kgen.data.emoji.captions import digest
from kgen.types import Path

__all__ = ["SPLITS", "gallery", "load", "load_arrays", "styles_of"]

CAPTIONS = ("label", "styled", "varied")
# Shares of the composed pictures that become counts, and of the pairs that have one noun twice.
_COUNTS = 0.35
_SAME_NOUN = 0.15


def load(
    split: Literal["train", "test"] = "train",
    *,
    batch_size: int = 64,
    styles: Sequence[str] | None = None,
    captions: Literal["label", "styled", "varied"] = "varied",
    recolour: float = 0.2,
    compose: float = 0.3,
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
        styles: sequence of names among `styles_of(data_dir)`, or None for all.
        captions: `"label"` (the stored caption), `"styled"` ("caption, style") or `"varied"`.
        recolour: probability in [0, 1] of recolouring a picture, if its colour can be changed.
        compose: probability in [0, 1] of composing a scene, for a picture of a countable noun.
        shuffle: whether to shuffle again in each epoch; None for the training split only.
        seed: integer seed of the order, the captions, the colours and the scenes.
        repeat: whether the data set repeats without end.
        drop_remainder: whether to drop an incomplete last batch.
        data_dir: folder of the data set; None for `~/.cache/kgen/drawings`.

    Returns:
        A `tf.data.Dataset` of `{"images": float32 [B, 128, 128, 3] in [-1, 1], "prompts": string
        [B]}`.

    Raises:
        FileNotFoundError: if the data set has not been built; the message gives the command.
        ValueError: if an argument has another value, or the data set is damaged.

    Example:
        batches = kgen.data.drawings.load("train", batch_size=64)
        model.fit(batches, epochs=10)
    """
    check_count("batch_size", batch_size)
    check_one_of("captions", captions, CAPTIONS)
    check_interval("recolour", recolour, "[0, 1]")
    check_interval("compose", compose, "[0, 1]")
    rows = _rows(split, styles, data_dir)
    count = len(rows["image"])
    maker = _Maker(rows, captions, recolour, compose)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    options.deterministic = True
    indices = tf.data.Dataset.range(count)
    if shuffle or (shuffle is None and split == "train"):
        indices = indices.shuffle(count, seed=seed, reshuffle_each_iteration=True)
    if repeat:
        indices = indices.repeat()
    draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    pairs = tf.data.Dataset.zip(indices, draws).map(
        functools.partial(_call, maker), num_parallel_calls=tf.data.AUTOTUNE
    )
    batches = pairs.batch(batch_size, drop_remainder=drop_remainder)
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def load_arrays(
    split: Literal["train", "test"] = "train",
    styles: Sequence[str] | None = None,
    *,
    data_dir: Path | None = None,
) -> dict[str, np.ndarray]:
    """Returns the stored pictures and columns of one split in memory, for evaluation.

    Args:
        split: `"train"` or `"test"`.
        styles: sequence of names among `styles_of(data_dir)`, or None for all.
        data_dir: folder of the data set; None for `~/.cache/kgen/drawings`.

    Returns:
        A dictionary of arrays: `images` uint8 `[N, 128, 128, 3]`, and strings `[N]`: `captions`,
        `styles`, `tags` and `turns` (joined by "|"), `groups`, `concepts`, `nouns`, `colours`.

    Raises:
        FileNotFoundError: if the data set has not been built.
        ValueError: if an argument has another value, or the data set is damaged.
    """
    rows = _rows(split, styles, data_dir)
    images = np.empty((len(rows["image"]), SIZE, SIZE, 3), "uint8")
    for place, encoded in enumerate(rows["image"]):
        images[place] = decode(encoded)
    names = {
        "captions": "caption",
        "styles": "style",
        "tags": "tags",
        "turns": "turns",
        "groups": "group",
        "concepts": "concept",
        "nouns": "noun",
        "colours": "colour",
    }
    return {"images": images, **{key: rows[name].astype(str) for key, name in names.items()}}


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
        data_dir: folder of the data set; None for `~/.cache/kgen/drawings`.

    Returns:
        A list of captions of different keys, in the order of `kgen.data.emoji.captions.digest`.

    Raises:
        FileNotFoundError: if the data set has not been built.
        ValueError: if an argument has another value, or the data set is damaged.
    """
    check_count("size", size)
    captions = sorted(set(_rows(split, [style], data_dir)["caption"]), reverse=True)
    by_digest = {digest(caption): caption for caption in captions}
    return [caption for _, caption in sorted(by_digest.items())[:size]]


def styles_of(data_dir: Path | None = None) -> list[str]:
    """Returns the names of all styles in a data set, those with most training pictures first.

    Args:
        data_dir: folder of the data set; None for `~/.cache/kgen/drawings`.

    Raises:
        FileNotFoundError: if the data set has not been built.
    """
    counts = read_index(data_dir or default_folder())["splits"]["train"]["styles"]
    return sorted(counts, key=lambda style: (-counts[style], style))


def decode(encoded: bytes) -> np.ndarray:
    """Decodes a PNG to a uint8 array `[H, W, 3]`."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as picture:
        return np.asarray(picture.convert("RGB"))


class _Maker:
    """A function from the index of a row and a random number to a picture and its prompt."""

    def __init__(
        self,
        rows: dict[str, np.ndarray],
        captions: Literal["label", "styled", "varied"],
        recolour: float,
        compose: float,
    ) -> None:
        self.rows, self.captions = rows, captions
        self.recolour, self.compose = recolour, compose
        self.partners = {}
        for index in np.flatnonzero(rows["noun"] != ""):
            self.partners.setdefault(rows["style"][index], []).append(index)

    def __call__(self, index: int, draw: int) -> tuple[np.ndarray, str]:
        rng = np.random.default_rng([int(draw), int(index)])
        row = {name: values[index] for name, values in self.rows.items()}
        composed, counted, same, turned = rng.random(4)
        thing = self.thing(row)
        if row["noun"] and composed < self.compose:
            if counted < _COUNTS:
                picture, prompt = draw_count(thing, rng)
            else:
                other = index
                if same >= _SAME_NOUN:
                    partners = self.partners[row["style"]]
                    other = partners[int(rng.integers(len(partners)))]
                second = self.thing({name: values[other] for name, values in self.rows.items()})
                picture, prompt = draw_pair(thing, second, rng)
            if self.captions != "label":
                styled = self.captions == "styled" or rng.random() < 0.3
                prompt = f"{prompt}, {row['style']}" if styled else prompt
            return picture, prompt
        if thing.turns and turned < self.recolour:
            thing = draw_thing(thing, rng, turn=1.0)
            row = {**row, "tags": "", "colour": thing.colour}  # a tag may name the old colour
            return thing.picture, self.prompt(row, rng, said=True)
        return thing.picture, self.prompt(row, rng)

    @staticmethod
    def thing(row: dict[str, Any]) -> Thing:
        """Returns the `Thing` of a row."""
        turns = tuple(row["turns"].split("|")) if row["turns"] else ()
        noun = row["noun"] or row["caption"]
        return Thing(decode(row["image"]), noun, row["colour"], float(row["hue"]), turns)

    def prompt(self, row: dict[str, Any], rng: np.random.Generator, said: bool = False) -> str:
        """Draws the prompt of one picture; with `said`, it always names the colour."""
        label = row["caption"]
        named, with_article, tagged, styled, drawing = rng.random(5)
        tags = rng.permutation([tag for tag in row["tags"].split("|") if tag])
        if row["colour"] and (said or (self.captions == "varied" and named < 0.3)):
            label = f"{row['colour']} {label}"
        if self.captions == "label":
            return label
        if self.captions == "styled":
            return f"{label}, {row['style']}"
        if row["noun"] and with_article < 0.4:
            label = article(label)
            if drawing < 0.2:
                label = f"{('a drawing', 'a picture', 'an icon')[int(drawing * 15)]} of {label}"
        parts = [label]
        if tagged < 0.2:
            parts += [str(tag) for tag in tags[:2]]
        if styled < 0.45:
            parts.append(row["style"])
        return ", ".join(parts)


def _call(maker: _Maker, index: tf.Tensor, draw: tf.Tensor) -> dict[str, tf.Tensor]:
    image, prompt = tf.numpy_function(
        lambda i, d: _as_tensors(*maker(i, d)), [index, draw], [tf.uint8, tf.string]
    )
    image = tf.cast(tf.ensure_shape(image, (SIZE, SIZE, 3)), tf.float32) / 127.5 - 1.0
    return {"images": image, "prompts": tf.ensure_shape(prompt, ())}


def _as_tensors(picture: np.ndarray, prompt: str) -> tuple[np.ndarray, bytes]:
    return np.ascontiguousarray(picture), prompt.encode()


def _rows(
    split: Literal["train", "test"], styles: Sequence[str] | None, data_dir: Path | None
) -> dict[str, np.ndarray]:
    """Returns the rows of a split in the given styles."""
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {list(SPLITS)}. Received: split={split!r}.")
    folder = pathlib.Path(data_dir or default_folder())
    known = styles_of(folder)
    rows = read_rows(str(folder), split)
    if styles is None:
        return rows
    if isinstance(styles, str) or not styles or not set(styles) <= set(known):
        raise ValueError(
            f"`styles` must be a sequence of some of {known}, or None. Received: {styles=}."
        )
    wanted = np.isin(rows["style"].astype(str), list(styles))
    return {name: values[wanted] for name, values in rows.items()}
