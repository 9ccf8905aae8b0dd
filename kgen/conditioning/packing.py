"""Packing of the tokens of a text into a row of L ids, with start, end and padding tokens.

    [start] token_1 ... token_n [end] [pad] ... [pad]

Longer texts are truncated before the end token. There is no start token if the tokenizer has none,
as that of T5.
"""

import functools
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from kgen.conditioning.bert_words import BertPieces
from kgen.conditioning.clip_words import clip_ids
from kgen.conditioning.new_words import with_new_words


class Packer:
    """Converts prompts to rows of ids with a KerasHub tokenizer.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer` with an end token.
        length: number L of ids in a row, start and end included.
        words: None, or the ids of new words, `{word: ids}`.

    Attributes:
        start: id of the start token, or None.
        capacity: largest number of tokens of a text.
        unknown: id of the unknown token; -1 if there is none or it cannot be determined.
    """

    def __init__(
        self,
        tokenizer: keras.layers.Layer,
        length: int,
        words: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        import keras_hub

        self.tokenizer = tokenizer
        self.length = length
        self.start = getattr(tokenizer, "start_token_id", None)
        self.capacity = length - (1 if self.start is None else 2)
        self._pieces = tokenizer
        if isinstance(tokenizer, keras_hub.tokenizers.CLIPTokenizer):
            self._pieces = functools.partial(clip_ids, tokenizer)
        elif isinstance(tokenizer, keras_hub.tokenizers.WordPieceTokenizer) and tokenizer.split:
            self._pieces = BertPieces(tokenizer)
        self._ids = with_new_words(self._pieces, words)
        self.unknown = getattr(self._pieces, "unknown", -1)

    def __call__(self, prompts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Tokenizes and packs prompts, with operations of TensorFlow and TensorFlow Text.

        Args:
            prompts: a string tensor `[B]`.

        Returns:
            Ids int32 `[B, L]`, a mask bool `[B, L]` that is false for padding, and the number of
            tokens before truncation `[B]`.
        """
        pieces = tf.cast(self._ids(prompts), tf.int32)
        column = tf.ones_like(prompts, tf.int32)[:, tf.newaxis]
        ids = tf.concat([pieces[:, : self.capacity], column * self.tokenizer.end_token_id], axis=1)
        if self.start is not None:
            ids = tf.concat([column * self.start, ids], axis=1)
        mask = tf.sequence_mask(ids.row_lengths(), self.length)
        ids = ids.to_tensor(self.tokenizer.pad_token_id, shape=[None, self.length])
        return ids, mask, pieces.row_lengths()

    def words(self, prompts: tf.Tensor) -> tf.RaggedTensor:
        """Splits a string tensor `[B]` into words, ragged `[B, None]`, for messages."""
        if isinstance(self._pieces, BertPieces):
            return self._pieces.words(prompts)
        return tf.strings.split(prompts)

    def empty(self) -> tuple[list[int], list[bool]]:
        """Returns the ids and the mask of the empty prompt, lists of length L."""
        ids = [] if self.start is None else [self.start]
        ids += [*self.tokenizer([""])[0], self.tokenizer.end_token_id]
        padding = self.length - len(ids)
        mask = [True] * len(ids) + [False] * padding
        return ids + [self.tokenizer.pad_token_id] * padding, mask
