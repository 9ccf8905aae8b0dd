"""Packing: from the pieces of a text to a row of L ids, with marks around them and padding behind.

    [start] piece_1 ... piece_n [end] [pad] ... [pad]

Rows of more than L ids lose pieces from the end of the text, never the end mark. Tokenizers without
a start mark (T5's) get none.
"""

import functools

import tensorflow as tf

from kgen.conditioning.bert_words import BertPieces
from kgen.conditioning.clip_words import clip_ids
from kgen.conditioning.new_words import with_new_words


class Packer:
    """Turns prompts into rows of ids with a KerasHub tokenizer.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer` with an end mark.
        length: L, the marks included.
        words: None, or `{word: ids}` of new words.
    """

    def __init__(self, tokenizer, length, words=None):
        import keras_hub

        self.tokenizer = tokenizer
        self.length = length
        self.start = getattr(tokenizer, "start_token_id", None)
        self.room = length - (1 if self.start is None else 2)
        self._pieces = tokenizer
        if isinstance(tokenizer, keras_hub.tokenizers.CLIPTokenizer):
            self._pieces = functools.partial(clip_ids, tokenizer)
        elif isinstance(tokenizer, keras_hub.tokenizers.WordPieceTokenizer) and tokenizer.split:
            self._pieces = BertPieces(tokenizer)
        self._cut = with_new_words(self._pieces, words)
        # No id where every text has known pieces (those of bytes), or it cannot be known.
        self.unknown = getattr(self._pieces, "unknown", -1)

    def __call__(self, prompts):
        """Packs a string tensor `[B]` in TensorFlow operations, TensorFlow Text's among them.

        Returns:
            Ids int32 `[B, L]`, mask bool `[B, L]` and the number of pieces before truncation `[B]`.
        """
        pieces = tf.cast(self._cut(prompts), tf.int32)
        column = tf.ones_like(prompts, tf.int32)[:, tf.newaxis]
        ids = tf.concat([pieces[:, : self.room], column * self.tokenizer.end_token_id], axis=1)
        if self.start is not None:
            ids = tf.concat([column * self.start, ids], axis=1)
        mask = tf.sequence_mask(ids.row_lengths(), self.length)
        ids = ids.to_tensor(self.tokenizer.pad_token_id, shape=[None, self.length])
        return ids, mask, pieces.row_lengths()

    def words(self, prompts):
        """Cuts a string tensor `[B]` into the words that are looked up, ragged `[B, None]`."""
        if isinstance(self._pieces, BertPieces):
            return self._pieces.words(prompts)
        return tf.strings.split(prompts)

    def empty(self):
        """Packs the empty prompt without TensorFlow: ids and mask, lists of L."""
        ids = [] if self.start is None else [self.start]
        ids += [*self.tokenizer([""])[0], self.tokenizer.end_token_id]
        padding = self.length - len(ids)
        mask = [True] * len(ids) + [False] * padding
        return ids + [self.tokenizer.pad_token_id] * padding, mask
