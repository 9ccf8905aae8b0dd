"""Words that a text encoder did not have: their place in a prompt, and their vectors.

    "a photo of <my-cat>"  ->  [..., "a", "photo", "of", V, V + 1, ...]

A new word is cut out of a text wherever it stands, as it is spelled, before the rest is cut into
pieces. Its ids come after the V of the vocabulary, one for each of its vectors, and its vectors are
taken where the table of embeddings ends. Learning the vectors and nothing else is textual
inversion.

References:
  Gal et al. (2022), https://arxiv.org/abs/2208.01618, section 3.
"""

import re

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kgen.checks import check_count
from kgen.conditioning.letters import valid
from kgen.layer_tree import layers_of
from kgen.serialization import Untracked


class NewWords(keras.layers.Layer):
    """The vectors of new words, which it adds to a layer of embeddings.

    Args:
        embedding: a built `keras.layers.Embedding`.
        words: `{word: number of vectors}` to begin with.
        **kwargs: `name` of a Keras layer.

    Example:
        >>> table = keras.layers.Embedding(3, 2)
        >>> table.build()
        >>> words = NewWords(table, {"<mine>": 1})
        >>> _ = words.vectors["<mine>"].assign([[5.0, 6.0]])
        >>> table(np.array([[0, 3]]))[0, 1].numpy().tolist()
        [5.0, 6.0]
    """

    def __init__(self, embedding, words=(), **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.size, self.width = embedding.input_dim, embedding.output_dim
        self.vectors = {}
        self.built = True
        embedding.__class__ = _EXTENDED[type(embedding)]
        embedding.new_words = Untracked(self)
        for word, vectors in dict(words).items():
            self.add(word, vectors)

    def add(self, word, vectors):
        """Adds a word of so many vectors, zero at first; returns their variable `[vectors, D]`.

        Raises:
            TypeError: if the word is no string.
            ValueError: if it is empty, has a space, or is there already.
        """
        check_word(word)
        check_count("vectors", vectors)
        if word in self.vectors:
            raise ValueError(f"`word` must be a new one. Received: word={word!r}.")
        # Made trainable, or TensorFlow's tapes would never see it; and held until it is learned.
        variable = self.add_weight(
            shape=(vectors, self.width), initializer="zeros", name=f"word_{len(self.vectors)}"
        )
        variable.trainable = False
        self.vectors[word] = variable
        return variable

    def ids(self):
        """Returns `{word: ids}`."""
        found, first = {}, self.size
        for word, vectors in self.vectors.items():
            found[word] = list(range(first, first + vectors.shape[0]))
            first += vectors.shape[0]
        return found

    def numbers(self):
        """Returns `{word: number of vectors}`, for a configuration."""
        return {word: vectors.shape[0] for word, vectors in self.vectors.items()}

    def table(self):
        """Returns the vectors of all words, `[sum of their numbers, D]`."""
        return tf.concat([tf.convert_to_tensor(v) for v in self.vectors.values()], axis=0)


def check_word(word):
    """Checks how a new word is written.

    Raises:
        TypeError: if it is no string.
        ValueError: if it is empty or has a space.
    """
    if not isinstance(word, str):
        raise TypeError(f"`word` must be a string. Received: word={word!r}.")
    if not word or re.search(r"\s", word):
        raise ValueError(f"`word` must be a word without spaces. Received: word={word!r}.")


def token_embedding(backbone, size):
    """Returns the layer of a text network that looks the vectors of `size` pieces up."""
    found = [a for a in layers_of(backbone) if isinstance(a, keras.layers.Embedding)]
    return min(found, key=lambda layer: abs(layer.input_dim - size))


def begin_at(vectors, table, like=None, seed=0):
    """Sets the first values of the vectors of a word.

    Args:
        vectors: the variable, `[vectors, D]`.
        table: the embeddings of the vocabulary, `[V, D]`.
        like: None for vectors drawn like those of the table, or ids whose mean they begin at.
        seed: of what is drawn.
    """
    table = keras.ops.convert_to_numpy(ops.cast(table, "float32"))
    if like is not None:
        values = np.broadcast_to(table[like].mean(axis=0), vectors.shape)
    else:
        noise = np.random.default_rng(seed).normal(size=vectors.shape)
        values = table.mean(axis=0) + table.std(axis=0) * noise
    vectors.assign(values)


def with_new_words(pieces, words):
    """Returns a function as `pieces`, which knows new words.

    Args:
        pieces: from a string tensor `[B]` to ids, ragged int32 `[B, None]`.
        words: `{word: ids}`.

    Example:
        >>> lengths = lambda text: tf.RaggedTensor.from_tensor(tf.strings.length(text)[:, None])
        >>> with_new_words(lengths, {"<x>": [7, 8]})(tf.constant(["ab <x>", "c"])).to_list()
        [[3, 7, 8], [1]]
    """
    if not words:
        return pieces
    known = sorted(words, key=len, reverse=True)
    pattern = "|".join(re.escape(word) for word in known)

    def cut(prompts):
        import tensorflow_text as tf_text

        parts = tf_text.regex_split(valid(prompts), pattern, pattern)  # [B, None]
        texts = parts.flat_values
        which = tf.reduce_sum(
            [tf.cast(texts == word, tf.int32) * (i + 1) for i, word in enumerate(known)], axis=0
        )
        ids = pieces(texts)
        ids = tf.cast(ids, tf.int32)
        own = tf.ragged.boolean_mask(
            ids, ids.with_values(tf.gather(which == 0, ids.value_rowids()))
        )
        table = tf.ragged.constant([[], *(words[word] for word in known)], tf.int32)
        ids = tf.concat([own, tf.gather(table, which)], axis=1)
        splits = tf.gather(ids.row_splits, parts.row_splits)
        return tf.RaggedTensor.from_row_splits(ids.values, splits)

    return cut


class _Extended:
    """A mix-in for embeddings, whose table goes on with the vectors of `NewWords`."""

    def call(self, inputs, *args, **kwargs):
        if args or kwargs.get("reverse"):
            return super().call(inputs, *args, **kwargs)
        inputs = ops.convert_to_tensor(inputs)
        size = self.input_dim
        known = super().call(ops.minimum(inputs, size - 1))
        words = self.new_words.value
        if not words.vectors:
            return known
        new = ops.cast(words.table(), known.dtype)
        place = ops.clip(inputs - size, 0, new.shape[0] - 1)
        return ops.where(ops.expand_dims(inputs >= size, -1), ops.take(new, place, axis=0), known)


class _ExtendedEmbedding(_Extended, keras.layers.Embedding):
    pass


class _ExtendedReversible(_Extended, keras.layers.ReversibleEmbedding):
    pass


_EXTENDED = {
    keras.layers.Embedding: _ExtendedEmbedding,
    keras.layers.ReversibleEmbedding: _ExtendedReversible,
    _ExtendedEmbedding: _ExtendedEmbedding,
    _ExtendedReversible: _ExtendedReversible,
}
