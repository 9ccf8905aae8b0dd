"""Pre-tokenization of CLIP: the split of a text into words.

CLIP converts a text to lower case and splits it into runs of letters, *single* digits, runs of
other characters, and the English endings 's, 't, 're, 've, 'm, 'll and 'd, by the regular
expression

    's|'t|'re|'ve|'m|'ll|'d|[letters]+|[number]|[neither]+

The byte-pair encoding is then applied to each word. In a graph, the `CLIPTokenizer` of KerasHub
uses the expression of GPT-2 instead: it keeps runs of digits together ("1999" has other ids than in
training), and removes the apostrophe of an ending after a space. The text is therefore split here,
and the tokenizer receives single words, which it does not split.

Differences from transformers: U+0000, which ends a text in operations of TensorFlow, is a space
here and a token there; and letters newer than Unicode 13 may be split differently.

References:
  Radford et al. (2021), https://arxiv.org/abs/2103.00020, section 2.4; the expression is that of
  https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py.
"""

import re
from collections.abc import Sequence

import keras
import tensorflow as tf

from kgen.conditioning.letters import lower, valid

WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
SPACES = r"[\s\p{Z}\x{00}\x{0b}\x{85}]+"  # of Unicode, and U+0000; `\s` has those of ASCII only
MARKS = ("<|startoftext|>", "<|endoftext|>")


def split_words(prompts: tf.Tensor, marks: Sequence[str] = MARKS) -> tf.RaggedTensor:
    """Splits prompts into the words of CLIP, with operations of TensorFlow and TensorFlow Text.

    Args:
        prompts: a string tensor `[B]`.
        marks: special tokens, which are split off first wherever they occur.

    Returns:
        A ragged string tensor `[B, None]`.

    Example:
        >>> split_words(tf.constant(["It's 1999!"])).to_list()
        [[b'it', b"'s", b'1', b'9', b'9', b'9', b'!']]
    """
    import tensorflow_text as tf_text

    text = tf.strings.regex_replace(valid(prompts), SPACES, " ")
    text = lower(tf_text.normalize_utf8(text, "NFC"))
    pattern = "|".join([*map(re.escape, marks), WORD])
    words = tf_text.regex_split(text, pattern, pattern)
    return tf.ragged.boolean_mask(words, words != " ")


def clip_ids(
    tokenizer: keras.layers.Layer, prompts: tf.Tensor, special: str | None = None
) -> tf.RaggedTensor:
    """Converts prompts to ids, without start and end tokens.

    Args:
        tokenizer: a `keras_hub.tokenizers.CLIPTokenizer`.
        prompts: a string tensor `[B]`.
        special: None, or a padding token that is split off wherever it occurs, as newer versions of
            transformers do; in Stable Diffusion 2 it is "!".

    Returns:
        A ragged int32 tensor `[B, None]`.
    """
    special = None if special in MARKS else special
    words = split_words(prompts, MARKS if special is None else (*MARKS, special))
    flat = words.flat_values
    if special is not None:
        is_special = flat == special
        # A placeholder with exactly one id, since `special` may be split into several.
        flat = tf.where(is_special, MARKS[1], flat)
    ids = _ids(tokenizer, flat)
    values = ids.values
    if special is not None:
        special_id = tf.cast(tokenizer.token_to_id(special), tf.int32)
        values = tf.where(tf.gather(is_special, ids.value_rowids()), special_id, values)
    # From the ids of words to those of prompts.
    splits = tf.gather(ids.row_splits, words.row_splits)
    return tf.RaggedTensor.from_row_splits(values, splits)


def _ids(tokenizer: keras.layers.Layer, words: tf.Tensor) -> tf.RaggedTensor:
    """Returns the ids of words `[N]`, ragged `[N, None]`; in eager mode without tracing a graph."""
    if not tf.executing_eagerly():
        return tf.cast(tokenizer(words), tf.int32)
    rows = tokenizer.tokenize([word.decode("utf-8", "replace") for word in words.numpy()])
    values = [piece for row in rows for piece in row]
    lengths = tf.constant([len(row) for row in rows], tf.int64)
    return tf.RaggedTensor.from_row_lengths(tf.constant(values, tf.int32), lengths)
