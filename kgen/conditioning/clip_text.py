"""The text condition of Stable Diffusion: one CLIP encoder, or the two of SD XL.

    SD 1, SD 2   tokens [B, 77, D]                 null: the empty prompt's
    SD XL        tokens [B, 77, D_1 + D_2]         null: zeros
                 pooled [B, P + 6 F]               null: zeros, and the same six numbers

XL is also given six numbers of a picture: its original height and width, the top and left of the
crop that was seen of it, and the height and width to draw, each as F sinusoids (cosines first). The
last two should be what is drawn; the first two teach it which pictures were small and blurred.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, section 3.3.
  Podell et al. (2023), https://arxiv.org/abs/2307.01952, sections 2.1 and 2.2.
"""

import hashlib
import json
import math

import numpy as np
import tensorflow as tf

from kgen.conditioning import tokenizers
from kgen.conditioning.clip_tower import CLIPTower
from kgen.conditioning.conditioner import Conditioner, size_of_pictures
from kgen.serialization import serializable
from kgen.tensors import fingerprint

NULLS = ("empty", "zeros")


@serializable
class CLIPText(Conditioner):
    """Prompts as Stable Diffusion reads them.

    Args:
        towers: one `CLIPTower` or several, whose vectors are put side by side.
        null: what an unconditional network is given: the encoding of the `"empty"` prompt, or
            `"zeros"`.
        sizes: None, or F: the features of each of the six numbers of SD XL.
        size: `(height, width)` in pixels of the pictures, for those numbers.
        **kwargs: `name`, `dtype` and `trainable` of a Keras layer.

    Call arguments:
        values: a string, a list of strings or a string tensor `[B]`; a dictionary of them as
            `"prompts"` with `"sizes"` `[B, 6]`; what `prepare` returns; or a condition.

    Returns:
        A dictionary: `"tokens"` `[B, L, D]`, `"mask"` bool `[B, L]`, true everywhere, and
        `"pooled"` if a tower projects or there are `sizes`.

    Raises:
        TypeError: if a prompt is not a string.
        ValueError: if there is no prompt, or an option is not one of those above.
    """

    batch_key = "prompts"
    forms = {"token_ids": "_from_tokens"}

    def __init__(self, towers, *, null="empty", sizes=None, size=None, **kwargs):
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

    def prepare(self, values, size=None):
        """Makes rows of prompts. Needs TensorFlow Text's operations in the process that runs it.

        Args:
            values: see the class; or the ids of one tower, an integer tensor.
            size: `(height, width)` of what is to be drawn; None for that of `pictures_of`, and
                outside of it for that of the conditioner.

        Returns:
            A dictionary: `"token_ids"` int32 `[B, L]`, with several towers `"token_ids_2"` and so
            on, and with `sizes` `"sizes"` float32 `[B, 6]`.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if there is no prompt, or a dictionary has other keys.
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
            given = values.get("sizes", self._numbers(size))
            given = tf.convert_to_tensor(given, tf.float32)
            if given.shape[-1] != 6:
                raise ValueError(f"`sizes` must have shape [B, 6]. Received: {given.shape}.")
            rows["sizes"] = tf.broadcast_to(given, [tf.shape(rows["token_ids"])[0], 6])
        return rows

    def call(self, rows, training=False):
        """Encodes rows; see the class."""
        encoded = [
            tower(rows[key], training=training) for key, tower in zip(self._keys(), self.towers)
        ]
        tokens = tf.concat([tf.cast(cond["tokens"], tf.float32) for cond in encoded], axis=-1)
        pooled = [tf.cast(cond["pooled"], tf.float32) for cond in encoded if "pooled" in cond]
        if self.sizes is not None:
            pooled.append(size_features(rows["sizes"], self.sizes))
        return self._condition(tokens, pooled)

    def null(self, batch_size, size=None):
        """Returns the condition that says nothing, `batch_size` times; core operations only."""
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

    def signature(self, form=None):
        """Returns what a server takes: strings, or with the form `"token_ids"` rows."""
        if form is None:
            return {"prompts": tf.TensorSpec([None], tf.string, "prompts")}
        length = self._empty.ids[0].shape[1]
        specs = {key: tf.TensorSpec([None, length], tf.int32, key) for key in self._keys()}
        if self.sizes is not None:
            specs["sizes"] = tf.TensorSpec([None, 6], tf.float32, "sizes")
        return specs

    def networks(self):
        """Returns the towers, which can have a LoRA."""
        names = ["text_encoder" if i == 0 else f"text_encoder_{i + 1}" for i in range(9)]
        return dict(zip(names, self.towers))

    def word_tables(self):
        """Returns the `NewWords` of each tower, or None before there are any."""
        return [tower.new_words for tower in self.towers]

    def word_widths(self):
        """Returns how many numbers a vector of a word has in each tower."""
        return [tower.width for tower in self.towers]

    def add_word(self, word, *, like=None, vectors=1, seed=0):
        """Adds a word to each tower, whose vectors are to be trained; as of `TextEncoder`."""
        options = {"like": like, "vectors": vectors, "seed": seed}
        return [tower.add_word(word, **options) for tower in self.towers]

    def resources(self):
        """Returns the tokenizers, whose tables a SavedModel needs."""
        return [tower.text.tokenizer for tower in self.towers]

    def write_vocabulary(self, folder):
        """Writes the vocabularies; returns how texts become ids with them, of each tower."""
        said = {}
        for key, tower in zip(self._keys(), self.towers):
            text = tower.text
            words = {} if tower.new_words is None else tower.new_words.ids()
            said[key] = tokenizers.write(text.tokenizer, folder / key) | {
                "pad": text.tokenizer.token_to_id(text.pad),
                "length": tower.length,
                "windows": tower.windows,
                "new_words": words,
            }
        return {"tokenizers": said}

    def fingerprint(self):
        """Returns the sha256 of all that a condition depends on: weights, vocabulary, options."""
        options = [tower.get_config() for tower in self.towers]
        text = json.dumps([options, self.null_kind, self.sizes, self.size], sort_keys=True)
        return hashlib.sha256((text + fingerprint(self.get_weights())).encode()).hexdigest()

    def _keys(self):
        keys = ["token_ids" if i == 0 else f"token_ids_{i + 1}" for i in range(len(self.towers))]
        return keys if self.sizes is None else [*keys, "sizes"]

    def _numbers(self, size=None):
        height, width = size or size_of_pictures() or self.size
        return np.array([[height, width, 0, 0, height, width]], "float32")

    def _condition(self, tokens, pooled):
        cond = {"tokens": tokens, "mask": tf.ones(tf.shape(tokens)[:2], tf.bool)}
        return cond | ({"pooled": tf.concat(pooled, axis=-1)} if pooled else {})


def size_features(sizes, features):
    """Sinusoids of six numbers: `[B, 6]` to `[B, 6 features]`, cosines first for each number.

    Example:
        >>> size_features(tf.zeros([1, 6]), 4).numpy()[0, :8].tolist()
        [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    """
    half = features // 2
    frequencies = tf.exp(-math.log(10000.0) * tf.range(half, dtype=tf.float32) / half)
    angles = sizes[:, :, tf.newaxis] * frequencies
    return tf.reshape(tf.concat([tf.cos(angles), tf.sin(angles)], axis=-1), [-1, 6 * 2 * half])


class _Rows:
    """Ids of the empty prompt, in a plain object that Keras does not turn into lists of its own."""

    def __init__(self, ids):
        self.ids = ids
