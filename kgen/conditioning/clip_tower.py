"""One text encoder of Stable Diffusion: CLIP's tokenizer and its transformer.

    prompt -> [start] pieces [end] [pad] ... [pad]   77 ids, or several such windows
           -> tokens [L, D]                          one vector for each id, the padding's too
           -> pooled [P]                             the end mark's vector, projected

The transformer is causal, so that the end mark has seen the whole text and the vectors of the
padding have too; Stable Diffusion was trained to attend to all of them, none masked. Which vectors
it attends to differs:

    "last"          after all layers and the final norm           SD 1, and SD 2 (whose published
                                                                  transformer lacks its last layer)
    "penultimate"   before the last layer, without the norm       both encoders of SD XL

References:
  Radford et al. (2021), https://arxiv.org/abs/2103.00020, section 2.4.
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752; Podell et al. (2023),
  https://arxiv.org/abs/2307.01952, section 2.1 (the penultimate states of two encoders).
"""

import warnings

import numpy as np
import tensorflow as tf
from keras import layers

from kgen.checks import check_count, check_one_of
from kgen.conditioning.clip_words import MARKS, clip_ids
from kgen.conditioning.new_words import NewWords, begin_at, token_embedding, with_new_words
from kgen.conditioning.prompts import as_strings
from kgen.layer_tree import freeze
from kgen.serialization import serializable

LENGTH = 77  # of a window, marks included
EPSILON = 1e-5  # of CLIP's norms; that of KerasHub's last one is 1e-6
STATES = ("last", "penultimate")
ACTIVATIONS = ("quick_gelu", "gelu")


@serializable
class CLIPTower(layers.Layer):
    """CLIP's text transformer with its tokenizer, built from sizes and a vocabulary.

    Args:
        vocabulary: the tokens, in the order of their ids.
        merges: the rules of the byte-pair encoding, such as `"h e</w>"`, in their order.
        width: D, of a vector.
        depth: number of layers.
        heads: of the attention.
        hidden: width inside of the feed-forward blocks.
        activation: `"quick_gelu"`, x sigmoid(1.702 x), or `"gelu"`, exact.
        states: `"last"` or `"penultimate"`; see the module.
        projection: None, or P: width of the projected vector of the end mark.
        pad: the token that fills a row up.
        length: ids in a window, marks included.
        windows: number of windows that a prompt is laid out in, one after the other and each
            encoded by itself; prompts that are longer are truncated.
        words: None, or `{word: number of vectors}` of words that were learned (`add_word`).
        **kwargs: `name`, `dtype` and `trainable` of a Keras layer.

    Call arguments:
        token_ids: int32 `[B, windows length]`.

    Returns:
        A dictionary: `"tokens"` `[B, windows length, D]`, and if there is a projection `"pooled"`
        `[B, P]`, that of the first window.

    Raises:
        ValueError: if sizes do not fit together, or a mark is not in the vocabulary.
    """

    def __init__(
        self,
        vocabulary,
        merges,
        *,
        width,
        depth,
        heads,
        hidden,
        activation="quick_gelu",
        states="last",
        projection=None,
        pad=MARKS[1],
        length=LENGTH,
        windows=1,
        words=None,
        **kwargs,
    ):
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

    def tokenize(self, prompts) -> tf.Tensor:
        """Cuts prompts into ids. Needs TensorFlow Text's operations in the process that runs it.

        Args:
            prompts: a string, a list of strings or a string tensor `[B]`.

        Returns:
            Ids int32 `[B, windows length]`; prompts that are longer are truncated, with a warning
            outside of a graph.
        """
        prompts = as_strings(prompts)
        ids, lengths = self._tokenize(prompts)
        room = self.windows * (self.length - 2)
        if tf.executing_eagerly():
            too_long = np.flatnonzero(lengths.numpy() > room)
            if len(too_long):
                first = prompts[too_long[0]].numpy().decode("utf-8", "replace")
                warnings.warn(
                    f"{len(too_long)} of {len(lengths)} `prompts` are longer than the encoder's "
                    f"{room} tokens and are truncated, the first of them {first!r}.",
                    stacklevel=3,
                )
        return ids

    def add_word(self, word, *, like=None, vectors=1, seed=0):
        """Adds a word, whose vectors are to be trained; as of `TextEncoder`."""
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
        begin_at(variable, embedding.embeddings, ids, seed)
        return variable

    def call(self, token_ids, training=False):
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

    def _tokenize(self, prompts):
        """Ids `[B, windows length]`, and how many pieces each prompt has, `[B]`."""
        tokenizer, room = self.text.tokenizer, self.length - 2
        words = {} if self.new_words is None else self.new_words.ids()
        pieces = with_new_words(self._pieces, words)(prompts)
        flat = pieces.to_tensor(-1, shape=[None, self.windows * room])
        rows = tf.reshape(flat, [-1, room])
        filled = tf.reduce_sum(tf.cast(rows >= 0, tf.int32), axis=1, keepdims=True)
        rows = tf.pad(rows, [[0, 0], [1, 1]])
        place = tf.range(self.length)[tf.newaxis]
        pad = tokenizer.token_to_id(self.text.pad)
        rows = tf.where(place > filled, tf.where(place == filled + 1, self.end, pad), rows)
        rows = tf.where(place == 0, tokenizer.start_token_id, rows)
        return tf.reshape(rows, [-1, self.windows * self.length]), pieces.row_lengths()

    def _pieces(self, prompts):
        return clip_ids(self.text.tokenizer, prompts, self.text.pad)

    def _token_embedding(self):
        return token_embedding(self.backbone, self.backbone.vocabulary_size)


class _Text:
    """A tokenizer and its padding token, in a plain object that no tracker walks.

    Keras would write the tokenizer's files into a `.keras` file; the configuration has them.
    """

    def __init__(self, tokenizer, pad):
        self.tokenizer = tokenizer
        self.pad = pad
