"""Words of CLIP's tokenizer: how a text is cut before its pieces are looked up.

CLIP lower-cases a text and cuts it into runs of letters, *single* digits, runs of other characters,
and the English endings 's, 't, 're, 've, 'm, 'll and 'd, by the regular expression

    's|'t|'re|'ve|'m|'ll|'d|[letters]+|[number]|[neither]+

Each word is then merged from its bytes. In a graph KerasHub's `CLIPTokenizer` cuts by GPT-2's
expression instead: runs of digits stay together ("1999" would be other ids than in training), and
an ending after a space loses its apostrophe. So the text is cut here, and the tokenizer is given
words, which it leaves whole.

What differs from transformers: U+0000, at which operations of TensorFlow end a text, is a space
here and a piece of its own there; and letters younger than Unicode 13 may be cut otherwise.

References:
  Radford et al. (2021), https://arxiv.org/abs/2103.00020, section 2.4; the expression is that of
  https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py.
"""

import re

import tensorflow as tf

from kgen.conditioning.letters import lower, valid

WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
SPACES = r"[\s\p{Z}\x{00}\x{0b}\x{85}]+"  # of Unicode, and U+0000; `\s` alone is ASCII's
MARKS = ("<|startoftext|>", "<|endoftext|>")


def split_words(prompts, marks=MARKS):
    """Cuts prompts into CLIP's words, in TensorFlow operations (TensorFlow Text's among them).

    Args:
        prompts: a string tensor `[B]`.
        marks: words that are cut out first, wherever they stand.

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


def clip_ids(tokenizer, prompts, special=None):
    """Cuts prompts into the ids of a `keras_hub.tokenizers.CLIPTokenizer`, without marks around.

    Args:
        tokenizer: the tokenizer.
        prompts: a string tensor `[B]`.
        special: None, or a token that is cut out wherever it stands, as newer versions of
            transformers do with a padding token; in Stable Diffusion 2 that is "!".

    Returns:
        A ragged int32 tensor `[B, None]`.
    """
    special = None if special in MARKS else special
    words = split_words(prompts, MARKS if special is None else (*MARKS, special))
    flat = words.flat_values
    if special is not None:
        is_special = flat == special
        flat = tf.where(is_special, MARKS[1], flat)  # a mark has one id, whatever `special` has
    ids = _pieces(tokenizer, flat)
    values = ids.values
    if special is not None:
        own = tf.cast(tokenizer.token_to_id(special), tf.int32)
        values = tf.where(tf.gather(is_special, ids.value_rowids()), own, values)
    # From the pieces of words to those of prompts.
    splits = tf.gather(ids.row_splits, words.row_splits)
    return tf.RaggedTensor.from_row_splits(values, splits)


def _pieces(tokenizer, words):
    """Ids of words `[N]`, ragged `[N, None]`; outside of a graph without tracing one first."""
    if not tf.executing_eagerly():
        return tf.cast(tokenizer(words), tf.int32)
    rows = tokenizer.tokenize([word.decode("utf-8", "replace") for word in words.numpy()])
    values = [piece for row in rows for piece in row]
    lengths = tf.constant([len(row) for row in rows], tf.int64)
    return tf.RaggedTensor.from_row_lengths(tf.constant(values, tf.int32), lengths)
