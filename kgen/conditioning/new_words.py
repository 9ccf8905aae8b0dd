"""New words of a text encoder: their ids in a prompt, and their embeddings.

    "a photo of <my-cat>"  ->  [..., "a", "photo", "of", V, V + 1, ...]

A new word is split off wherever it occurs literally in a text, before the rest is tokenized. It has
one id per vector, which follow the V ids of the vocabulary; its vectors extend the embedding table.
Training these vectors alone is textual inversion.

References:
  Gal et al. (2022), https://arxiv.org/abs/2208.01618, section 3.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kgen.checks import check_count
from kgen.conditioning.letters import valid
from kgen.layer_tree import layers_of
from kgen.serialization import Untracked
from kgen.types import TensorLike


class NewWords(keras.layers.Layer):
    """The embeddings of new words, by which an embedding layer is extended.

    Args:
        embedding: a built `keras.layers.Embedding`, whose class is changed to one that also looks
            up new words.
        words: None, or `{word: number of vectors}` of words to add.
        **kwargs: `name` of a Keras layer.

    Attributes:
        vectors: the embeddings of each word, `{word: variable [number of vectors, D]}`.

    Example:
        >>> table = keras.layers.Embedding(3, 2)
        >>> table.build()
        >>> words = NewWords(table, {"<mine>": 1})
        >>> _ = words.vectors["<mine>"].assign([[5.0, 6.0]])
        >>> table(np.array([[0, 3]]))[0, 1].numpy().tolist()
        [5.0, 6.0]
    """

    def __init__(
        self,
        embedding: keras.layers.Embedding,
        words: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.size, self.width = embedding.input_dim, embedding.output_dim
        self.vectors = {}
        self.built = True
        embedding.__class__ = _EXTENDED[type(embedding)]
        embedding.new_words = Untracked(self)
        for word, vectors in (words or {}).items():
            self.add(word, vectors)

    def add(self, word: str, vectors: int) -> keras.Variable:
        """Adds a word, whose embeddings are zeros.

        Args:
            word: the word as it is written in prompts.
            vectors: number of vectors.

        Returns:
            The variable of the embeddings, `[vectors, D]`, not trainable.

        Raises:
            TypeError: if the word is not a string, or `vectors` is not a number.
            ValueError: if the word is empty, contains a space or was added before, or `vectors` is
                not a positive integer.
        """
        check_word(word)
        check_count("vectors", vectors)
        if word in self.vectors:
            raise ValueError(f"`word` must be a new one. Received: word={word!r}.")
        # Created as trainable, since otherwise TensorFlow would never record its gradient.
        variable = self.add_weight(
            shape=(vectors, self.width), initializer="zeros", name=f"word_{len(self.vectors)}"
        )
        variable.trainable = False
        self.vectors[word] = variable
        return variable

    def ids(self) -> dict[str, list[int]]:
        """Returns the ids of each word, `{word: ids}`."""
        found, first = {}, self.size
        for word, vectors in self.vectors.items():
            found[word] = list(range(first, first + vectors.shape[0]))
            first += vectors.shape[0]
        return found

    def numbers(self) -> dict[str, int]:
        """Returns `{word: number of vectors}`, for a configuration."""
        return {word: vectors.shape[0] for word, vectors in self.vectors.items()}

    def table(self) -> tf.Tensor:
        """Returns the vectors of all words, `[number of vectors, D]`."""
        return tf.concat([tf.convert_to_tensor(v) for v in self.vectors.values()], axis=0)


def check_word(word: Any) -> None:
    """Checks that a new word is a string without spaces.

    Raises:
        TypeError: if the word is not a string.
        ValueError: if the word is empty or contains a space.
    """
    if not isinstance(word, str):
        raise TypeError(f"`word` must be a string. Received: word={word!r}.")
    if not word or re.search(r"\s", word):
        raise ValueError(f"`word` must be a word without spaces. Received: word={word!r}.")


def token_embedding(backbone: keras.Model, size: int) -> keras.layers.Embedding:
    """Returns the token embedding of a text network.

    Args:
        backbone: the network.
        size: size of the vocabulary, which distinguishes it from other embeddings, such as that of
            positions.
    """
    found = [a for a in layers_of(backbone) if isinstance(a, keras.layers.Embedding)]
    return min(found, key=lambda layer: abs(layer.input_dim - size))


def initialize(
    vectors: keras.Variable, table: Any, like: Sequence[int] | None = None, seed: int = 0
) -> None:
    """Sets the initial values of the embeddings of a word.

    Args:
        vectors: the variable of the embeddings, `[vectors, D]`.
        table: the embeddings of the vocabulary, `[V, D]`.
        like: the ids whose mean embedding is the initial value; None for random values with the
            mean and the standard deviation of the table.
        seed: integer seed of the random values.
    """
    table = keras.ops.convert_to_numpy(ops.cast(table, "float32"))
    if like is not None:
        values = np.broadcast_to(table[like].mean(axis=0), vectors.shape)
    else:
        noise = np.random.default_rng(seed).normal(size=vectors.shape)
        values = table.mean(axis=0) + table.std(axis=0) * noise
    vectors.assign(values)


def with_new_words(
    pieces: Callable[[tf.Tensor], tf.RaggedTensor], words: Mapping[str, Sequence[int]] | None
) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """Extends a tokenizer by new words.

    Args:
        pieces: a function from a string tensor `[B]` to ids, ragged int32 `[B, None]`.
        words: the ids of the new words, `{word: ids}`, or None.

    Returns:
        A function like `pieces`.

    Example:
        >>> lengths = lambda text: tf.RaggedTensor.from_tensor(tf.strings.length(text)[:, None])
        >>> with_new_words(lengths, {"<x>": [7, 8]})(tf.constant(["ab <x>", "c"])).to_list()
        [[3, 7, 8], [1]]
    """
    if not words:
        return pieces
    longest_first = sorted(words, key=len, reverse=True)
    pattern = "|".join(re.escape(word) for word in longest_first)

    def ids_of(prompts: tf.Tensor) -> tf.RaggedTensor:
        import tensorflow_text as tf_text

        parts = tf_text.regex_split(valid(prompts), pattern, pattern)  # [B, None]
        texts = parts.flat_values
        number = tf.reduce_sum(  # that of the new word, from 1; 0 for other texts
            [tf.cast(texts == word, tf.int32) * (i + 1) for i, word in enumerate(longest_first)],
            axis=0,
        )
        ids = tf.cast(pieces(texts), tf.int32)
        others = tf.ragged.boolean_mask(
            ids, ids.with_values(tf.gather(number == 0, ids.value_rowids()))
        )
        table = tf.ragged.constant([[], *(words[word] for word in longest_first)], tf.int32)
        ids = tf.concat([others, tf.gather(table, number)], axis=1)
        splits = tf.gather(ids.row_splits, parts.row_splits)
        return tf.RaggedTensor.from_row_splits(ids.values, splits)

    return ids_of


class _Extended:
    """A mix-in for embedding layers, which extends their table by the vectors of `NewWords`."""

    def call(self, inputs: TensorLike, *args: Any, **kwargs: Any) -> tf.Tensor:
        if args or kwargs.get("reverse"):
            return super().call(inputs, *args, **kwargs)
        inputs = ops.convert_to_tensor(inputs)
        size = self.input_dim
        own = super().call(ops.minimum(inputs, size - 1))
        words = self.new_words.value
        if not words.vectors:
            return own
        new = ops.cast(words.table(), own.dtype)
        rows = ops.clip(inputs - size, 0, new.shape[0] - 1)
        return ops.where(ops.expand_dims(inputs >= size, -1), ops.take(new, rows, axis=0), own)


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
