"""The text condition of Stable Diffusion: one CLIP encoder, or the two of SD XL.

    SD 1, SD 2   tokens [B, 77, D]                 null: the encoding of the empty prompt
    SD XL        tokens [B, 77, D_1 + D_2]         null: zeros
                 pooled [B, P + 6 F]               null: zeros, and the same six numbers

SD XL is also conditional on six numbers, each embedded in F sinusoids (cosines first): height and
width of the original picture, top and left of the crop used in training, and height and width of
the output, all in pixels. The last two should be the size of the generated picture; the first two
let the model distinguish pictures that were enlarged and are blurred.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, section 3.3.
  Podell et al. (2023), https://arxiv.org/abs/2307.01952, sections 2.1 and 2.2.
"""

import hashlib
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from kgen.conditioning import tokenizers
from kgen.conditioning.clip_tower import CLIPTower
from kgen.conditioning.conditioner import Conditioner, size_of_pictures
from kgen.conditioning.new_words import NewWords
from kgen.serialization import serializable
from kgen.tensors import fingerprint

NULLS = ("empty", "zeros")


@serializable
class CLIPText(Conditioner):
    """The conditioner of Stable Diffusion, which encodes prompts with one or two CLIP encoders.

    Args:
        towers: the `CLIPTower`s, whose token embeddings are concatenated.
        null: the null condition: the encoding of the `"empty"` prompt, or `"zeros"`.
        sizes: None, or the number F of features of each of the six numbers of SD XL.
        size: with `sizes`, the default `(height, width)` of the pictures in pixels.
        **kwargs: `name`, `dtype` and `trainable` of a Keras layer.

    Call arguments:
        values: a string, a list of strings or a string tensor `[B]`; a dictionary of `"prompts"`
            and `"sizes"` `[B, 6]`; the output of `prepare`; or an encoded condition.

    Returns:
        A dictionary: `"tokens"` float32 `[B, L, D]`; `"mask"` bool `[B, L]`, true everywhere; and
        `"pooled"` float32, if a tower has a projection or there are `sizes`.

    Raises:
        TypeError: if `towers` are not `CLIPTower`s, or a prompt is not a string.
        ValueError: if there is no prompt, `null` is unknown, or only one of `sizes` and `size` is
            given.
    """

    batch_key = "prompts"
    forms = {"token_ids": "_from_tokens"}

    def __init__(
        self,
        towers: Sequence[CLIPTower],
        *,
        null: Literal["empty", "zeros"] = "empty",
        sizes: int | None = None,
        size: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if null not in NULLS:
            raise ValueError(f"`null` must be one of {NULLS}. Received: null={null!r}.")
        if (sizes is None) != (size is None):
            raise ValueError(
                f"`size` must be given with `sizes`, and only then. Received: {sizes=}, {size=}."
            )
        self.towers = list(towers)
        if not self.towers or not all(isinstance(tower, CLIPTower) for tower in self.towers):
            raise TypeError(f"`towers` must be CLIPTowers, at least one. Received: {towers!r}.")
        self.null_kind, self.sizes = null, sizes
        self.size = None if size is None else tuple(size)
        with tf.init_scope():
            self._empty = _Rows([tower.tokenize("").numpy() for tower in self.towers])
        self.built = True

    def prepare(self, values: Any, size: Sequence[int] | None = None) -> dict[str, tf.Tensor]:
        """Tokenizes prompts. A graph of this method needs the operations of TensorFlow Text.

        Args:
            values: see the class; or the ids of the only tower, an integer tensor `[B, L]`.
            size: `(height, width)` of the pictures in pixels; None for the size set by
                `pictures_of`, or else for that of the conditioner.

        Returns:
            A dictionary: `"token_ids"` int32 `[B, L]`; `"token_ids_2"` and so on for further
            towers; and with `sizes`, `"sizes"` float32 `[B, 6]`.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if there is no prompt, or a dictionary has other keys or shapes.
        """
        if tf.is_tensor(values) and values.dtype.is_integer:
            values = {"token_ids": values}
        elif not isinstance(values, dict):
            values = {"prompts": values}
        if set(values) == set(self._keys()):
            return {key: tf.convert_to_tensor(value) for key, value in values.items()}
        allowed = {"prompts"} if self.sizes is None else {"prompts", "sizes"}
        if "prompts" not in values or not set(values) <= allowed:
            raise ValueError(
                f"`values` must be prompts, or a dictionary of {sorted(allowed)} or of "
                f"{self._keys()}. Received: a dictionary of {sorted(values)}."
            )
        rows = {
            key: tower.tokenize(values["prompts"]) for key, tower in zip(self._keys(), self.towers)
        }
        if self.sizes is not None:
            sizes = values.get("sizes", self._numbers(size))
            sizes = tf.convert_to_tensor(sizes, tf.float32)
            if sizes.shape[-1] != 6:
                raise ValueError(f"`sizes` must have shape [B, 6]. Received: {sizes.shape}.")
            rows["sizes"] = tf.broadcast_to(sizes, [tf.shape(rows["token_ids"])[0], 6])
        return rows

    def call(self, rows: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Encodes the rows of `prepare`; see the class."""
        encoded = [
            tower(rows[key], training=training) for key, tower in zip(self._keys(), self.towers)
        ]
        tokens = tf.concat([tf.cast(cond["tokens"], tf.float32) for cond in encoded], axis=-1)
        pooled = [tf.cast(cond["pooled"], tf.float32) for cond in encoded if "pooled" in cond]
        if self.sizes is not None:
            pooled.append(size_features(rows["sizes"], self.sizes))
        return self._condition(tokens, pooled)

    def null(
        self, batch_size: int | tf.Tensor, size: Sequence[int] | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the null condition, computed without operations of TensorFlow Text.

        Args:
            batch_size: number of rows.
            size: see `prepare`.
        """
        rows = dict(zip(self._keys(), map(tf.constant, self._empty.ids)))
        if self.sizes is not None:
            rows["sizes"] = tf.constant(self._numbers(size))
        if self.null_kind == "empty":
            cond = self.call(rows)
        else:
            length = sum(ids.shape[1] for ids in self._empty.ids[:1])
            tokens = tf.zeros([1, length, sum(tower.width for tower in self.towers)])
            pooled = [tf.zeros([1, t.projection]) for t in self.towers if t.projection is not None]
            if self.sizes is not None:
                pooled.append(size_features(rows["sizes"], self.sizes))
            cond = self._condition(tokens, pooled)
        return {
            key: tf.tile(row, [batch_size] + [1] * (row.shape.rank - 1))
            for key, row in cond.items()
        }

    def signature(self, form: str | None = None) -> dict[str, tf.TensorSpec]:
        """Returns the inputs of an export: prompts, or with the form `"token_ids"` their rows."""
        if form is None:
            return {"prompts": tf.TensorSpec([None], tf.string, "prompts")}
        length = self._empty.ids[0].shape[1]
        specs = {key: tf.TensorSpec([None, length], tf.int32, key) for key in self._keys()}
        if self.sizes is not None:
            specs["sizes"] = tf.TensorSpec([None, 6], tf.float32, "sizes")
        return specs

    def networks(self) -> dict[str, keras.layers.Layer]:
        """Returns the towers, which can have a LoRA."""
        names = ["text_encoder" if i == 0 else f"text_encoder_{i + 1}" for i in range(9)]
        return dict(zip(names, self.towers))

    def word_tables(self) -> list[NewWords | None]:
        """Returns the `NewWords` of each tower, or None before there are any."""
        return [tower.new_words for tower in self.towers]

    def word_widths(self) -> list[int]:
        """Returns the width of the embeddings of each tower."""
        return [tower.width for tower in self.towers]

    def add_word(
        self, word: str, *, like: str | None = None, vectors: int = 1, seed: int = 0
    ) -> list[keras.Variable]:
        """Adds a word with new embeddings to each tower; see `TextEncoder.add_word`.

        Returns:
            A list of the variables of the embeddings, one per tower.
        """
        options = {"like": like, "vectors": vectors, "seed": seed}
        return [tower.add_word(word, **options) for tower in self.towers]

    def resources(self) -> list[Any]:
        """Returns the tokenizers, whose lookup tables a SavedModel needs."""
        return [tower.text.tokenizer for tower in self.towers]

    def write_vocabulary(self, folder: pathlib.Path) -> dict[str, Any]:
        """Writes the vocabulary of each tower.

        Args:
            folder: directory in which to write one folder for each tower; created if missing.

        Returns:
            The description of the tokenizer of each tower, `{"tokenizers": {key: ...}}` with the
            keys of `prepare`, which can be written as JSON.
        """
        descriptions = {}
        for key, tower in zip(self._keys(), self.towers):
            text = tower.text
            words = {} if tower.new_words is None else tower.new_words.ids()
            descriptions[key] = tokenizers.write(text.tokenizer, folder / key) | {
                "pad": text.tokenizer.token_to_id(text.pad),
                "length": tower.length,
                "windows": tower.windows,
                "new_words": words,
            }
        return {"tokenizers": descriptions}

    def fingerprint(self) -> str:
        """Returns a sha256 of the weights, the vocabulary and the options."""
        options = [tower.get_config() for tower in self.towers]
        text = json.dumps([options, self.null_kind, self.sizes, self.size], sort_keys=True)
        return hashlib.sha256((text + fingerprint(self.get_weights())).encode()).hexdigest()

    def _keys(self) -> list[str]:
        keys = ["token_ids" if i == 0 else f"token_ids_{i + 1}" for i in range(len(self.towers))]
        return keys if self.sizes is None else [*keys, "sizes"]

    def _numbers(self, size: Sequence[int] | None = None) -> np.ndarray:
        """Returns the six numbers of pictures that are not cropped, `[1, 6]`."""
        height, width = size or size_of_pictures() or self.size
        return np.array([[height, width, 0, 0, height, width]], "float32")

    def _condition(self, tokens: tf.Tensor, pooled: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        cond = {"tokens": tokens, "mask": tf.ones(tf.shape(tokens)[:2], tf.bool)}
        return cond | ({"pooled": tf.concat(pooled, axis=-1)} if pooled else {})


def size_features(sizes: tf.Tensor, features: int) -> tf.Tensor:
    """Embeds six numbers in sinusoids, cosines first for each number.

    Args:
        sizes: float32 `[B, 6]`, in pixels.
        features: even number of features per number.

    Returns:
        float32 `[B, 6 features]`.

    Example:
        >>> size_features(tf.zeros([1, 6]), 4).numpy()[0, :8].tolist()
        [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    """
    half = features // 2
    frequencies = tf.exp(-math.log(10000.0) * tf.range(half, dtype=tf.float32) / half)
    angles = sizes[:, :, tf.newaxis] * frequencies
    return tf.reshape(tf.concat([tf.cos(angles), tf.sin(angles)], axis=-1), [-1, 6 * 2 * half])


class _Rows:
    """The ids of the empty prompt, in an object that Keras does not track."""

    def __init__(self, ids: list[np.ndarray]) -> None:
        self.ids = ids
