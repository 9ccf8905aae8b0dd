"""A text encoder of Stable Diffusion: the tokenizer and the transformer of CLIP.

    prompt -> [start] tokens [end] [pad] ... [pad]   77 ids, or several windows of 77
           -> tokens [L, D]                          one vector per id, padding included
           -> pooled [P]                             projection of the vector of the end token

The transformer is causal, so that the end token and the padding attend to the whole text. Stable
Diffusion was trained with cross-attention to the vectors of all ids, without a mask. The vectors
are hidden states of one of two layers:

    "last"          after all layers and the final norm           SD 1, and SD 2 (whose published
                                                                  transformer lacks its last layer)
    "penultimate"   before the last layer, without the norm       both encoders of SD XL

References:
  Radford et al. (2021), https://arxiv.org/abs/2103.00020, section 2.4.
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752; Podell et al. (2023),
  https://arxiv.org/abs/2307.01952, section 2.1 (the penultimate states of two encoders).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf
from keras import layers

from kgen.checks import check_count, check_one_of
from kgen.conditioning.clip_words import MARKS, clip_ids
from kgen.conditioning.new_words import NewWords, initialize, token_embedding, with_new_words
from kgen.conditioning.prompt_warnings import warn_of_truncated
from kgen.conditioning.prompts import as_strings
from kgen.layer_tree import freeze
from kgen.serialization import serializable

LENGTH = 77  # ids in a window, start and end included
EPSILON = 1e-5  # of the layer norms of CLIP; KerasHub uses 1e-6 in the last one
STATES = ("last", "penultimate")
ACTIVATIONS = ("quick_gelu", "gelu")


@serializable
class CLIPTower(layers.Layer):
    """The text transformer of CLIP with its tokenizer, built from sizes and a vocabulary.

    Args:
        vocabulary: the tokens, in the order of their ids.
        merges: the rules of the byte-pair encoding, such as `"h e</w>"`, in their order.
        width: width D of a vector.
        depth: number of layers.
        heads: number of attention heads.
        hidden: width of the hidden layer of the feed-forward blocks.
        activation: `"quick_gelu"`, x sigmoid(1.702 x), or `"gelu"`, exact.
        states: the hidden states that are returned, `"last"` or `"penultimate"`; see the module.
        projection: None, or the width P of the projected vector of the end token.
        pad: the padding token.
        length: number of ids in a window, start and end included.
        windows: number of windows of a prompt, which are encoded separately and concatenated.
            Longer prompts are truncated.
        words: None, or `{word: number of vectors}` of words that were added by `add_word`.
        **kwargs: `name`, `dtype` and `trainable` of a Keras layer.

    Call arguments:
        token_ids: int32 `[B, windows length]`.
        training: whether layers such as dropout are active.

    Returns:
        A dictionary: `"tokens"` `[B, windows length, D]`, and with a projection `"pooled"`
        `[B, P]`, that of the first window.

    Raises:
        TypeError: if `windows` is not a number.
        ValueError: if an option is unknown or out of range, or a special token is not in the
            vocabulary.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Sequence[str],
        *,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        activation: Literal["quick_gelu", "gelu"] = "quick_gelu",
        states: Literal["last", "penultimate"] = "last",
        projection: int | None = None,
        pad: str = MARKS[1],
        length: int = LENGTH,
        windows: int = 1,
        words: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        import keras_hub

        super().__init__(**kwargs)
        check_one_of("activation", activation, ACTIVATIONS)
        check_one_of("states", states, STATES)
        check_count("windows", windows)
        if states == "penultimate" and depth < 2:
            raise ValueError(
                f"`depth` must be at least 2 for penultimate states. Received: {depth}."
            )
        for token in (*MARKS, pad):
            if token not in vocabulary:
                raise ValueError(f"`vocabulary` must have the token {token!r}.")
        self.width, self.length, self.windows = width, length, windows
        self.states, self.projection = states, projection
        self.backbone = keras_hub.models.CLIPTextEncoder(
            vocabulary_size=len(vocabulary),
            embedding_dim=width,
            hidden_dim=width,
            num_layers=depth,
            num_heads=heads,
            intermediate_dim=hidden,
            intermediate_activation=activation,
            intermediate_output_index=depth - 2 if states == "penultimate" else None,
            max_sequence_length=length,
            dtype=self.dtype_policy,
            name="backbone",
        )
        self.backbone.layer_norm.epsilon = EPSILON
        if projection is not None:
            self.project = layers.Dense(
                projection, use_bias=False, dtype=self.dtype_policy, name="projection"
            )
            self.project.build((None, width))
        tokenizer = keras_hub.models.CLIPTokenizer(
            vocabulary={token: i for i, token in enumerate(vocabulary)}, merges=list(merges)
        )
        self.text = _Text(tokenizer, pad)
        self.end = tokenizer.end_token_id
        self.new_words = None
        if words:
            self.new_words = NewWords(self._token_embedding(), words, name="new_words")
        self.built = True
        if not self.trainable:
            freeze(self)

    def tokenize(self, prompts: Any) -> tf.Tensor:
        """Converts prompts to ids. A graph of this method needs operations of TensorFlow Text.

        Args:
            prompts: a string, a list of strings or a string tensor `[B]`.

        Returns:
            Ids int32 `[B, windows length]`. Longer prompts are truncated, outside of a graph with
            a warning.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if there is no prompt.
        """
        prompts = as_strings(prompts)
        ids, lengths = self._tokenize(prompts)
        capacity = self.windows * (self.length - 2)
        if tf.executing_eagerly():
            warn_of_truncated(prompts, lengths, capacity, stacklevel=4)
        return ids

    def add_word(
        self, word: str, *, like: str | None = None, vectors: int = 1, seed: int = 0
    ) -> keras.Variable:
        """Adds a word with new embeddings, which can be trained.

        Args:
            word: the word as it is written in prompts.
            like: None, or a text; the mean embedding of its tokens is the initial value.
            vectors: number of vectors of the word.
            seed: integer seed of the initial values without `like`.

        Returns:
            The variable of the embeddings, `[vectors, D]`.

        Raises:
            TypeError: if the word is not a string, or `vectors` is not a number.
            ValueError: if the word is empty, contains a space or was added before, `like` has no
                token, or `vectors` is not a positive integer.
        """
        embedding = self._token_embedding()
        ids = None
        if like is not None:
            ids = clip_ids(self.text.tokenizer, as_strings(like), self.text.pad).values.numpy()
            if not len(ids):
                raise ValueError(f"`like` must be a word. Received: like={like!r}.")
        if self.new_words is None:
            self.new_words = NewWords(embedding, name="new_words")
        variable = self.new_words.add(word, vectors)
        self._init_arguments.value["words"] = self.new_words.numbers()
        initialize(variable, embedding.embeddings, ids, seed)
        return variable

    def call(self, token_ids: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Encodes ids; see the class."""
        rows = tf.reshape(token_ids, [-1, self.length])
        outputs = self.backbone({"token_ids": rows}, training=training)
        last = outputs
        tokens = last
        if self.states == "penultimate":
            last, tokens = outputs["sequence_output"], outputs["intermediate_output"]
        shape = [-1, self.windows * self.length, self.width]
        result = {"tokens": tf.reshape(tokens, shape)}
        if self.projection is not None:
            first = tf.reshape(last, shape)[:, : self.length]
            marks = tf.argmax(token_ids[:, : self.length] == self.end, axis=1)
            result["pooled"] = self.project(tf.gather(first, marks, batch_dims=1))
        return result

    def _tokenize(self, prompts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns ids `[B, windows length]`, and the number of tokens of each prompt, `[B]`."""
        tokenizer, capacity = self.text.tokenizer, self.length - 2
        words = {} if self.new_words is None else self.new_words.ids()
        pieces = with_new_words(self._ids, words)(prompts)
        flat = pieces.to_tensor(-1, shape=[None, self.windows * capacity])
        rows = tf.reshape(flat, [-1, capacity])
        filled = tf.reduce_sum(tf.cast(rows >= 0, tf.int32), axis=1, keepdims=True)
        rows = tf.pad(rows, [[0, 0], [1, 1]])
        place = tf.range(self.length)[tf.newaxis]
        pad = tokenizer.token_to_id(self.text.pad)
        rows = tf.where(place > filled, tf.where(place == filled + 1, self.end, pad), rows)
        rows = tf.where(place == 0, tokenizer.start_token_id, rows)
        return tf.reshape(rows, [-1, self.windows * self.length]), pieces.row_lengths()

    def _ids(self, prompts: tf.Tensor) -> tf.RaggedTensor:
        return clip_ids(self.text.tokenizer, prompts, self.text.pad)

    def _token_embedding(self) -> keras.layers.Embedding:
        return token_embedding(self.backbone, self.backbone.vocabulary_size)


class _Text:
    """A tokenizer and its padding token, in an object that Keras does not track.

    Keras would save the files of a tracked tokenizer in a `.keras` file, beside the configuration
    of the tower, which contains the vocabulary already.
    """

    def __init__(self, tokenizer: keras.layers.Layer, pad: str) -> None:
        self.tokenizer = tokenizer
        self.pad = pad
