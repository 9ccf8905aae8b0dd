r"""Pre-tokenization of BERT: normalization of a text and its split into words.

    text --> control characters removed, all spaces replaced by ASCII's, CJK characters set apart
         --> decomposed (NFD), accents removed, lower case              (uncased vocabularies only)
         --> split at spaces, and before and after punctuation
         --> each word split into the longest tokens of the vocabulary, from the left; or [UNK]

The tokenizer of KerasHub differs in a graph: it joins words at spaces other than ASCII's, replaces
compatible forms (a ligature by its letters, full-width letters by ASCII, German sharp s by "ss"),
composes Hangul, splits words at control characters, and treats a word of more than 100 *bytes*
instead of characters as unknown. The resulting ids differ from those of the training. The split is
therefore implemented here. As in transformers, special tokens such as "[SEP]" are split off first
where they occur literally in a text.

The reference implementation uses the character classes of Unicode 8 (2015). These newer characters,
which are in no published vocabulary, have other ids here:

    * newer accents (\p{Mn}) are removed here, and make a word unknown in the reference;
    * newer punctuation splits words here, but not in the reference;
    * letters whose lower case TensorFlow does not know (Vithkuqi, and some of Latin phonetics).

The ids also differ for the vowel sign U+1734, which only the reference treats as an accent, and for
U+166D and U+111C9, which only the reference treats as punctuation.

References:
  Devlin et al. (2018), https://arxiv.org/abs/1810.04805; the tokenizer is that of
  https://github.com/google-research/bert/blob/master/tokenization.py in the form of
  https://github.com/huggingface/tokenizers (normalizers/bert.rs, pre_tokenizers/bert.rs).
"""

import re
from collections.abc import Sequence

import keras
import tensorflow as tf

from kgen.conditioning.letters import lower, valid

MAX_CHARACTERS = 100  # a longer word is unknown
_PRIVATE = r"[\x{E000}-\x{F8FF}]"
_FIRST_PRIVATE = 0xE000
# Control, format and private-use characters of Unicode 8, U+0000 and U+FFFD. Those of the basic
# plane are missing: `split_words` uses them as placeholders of the special tokens.
_REMOVED = (
    r"[\x{00}-\x{08}\x{0B}\x{0C}\x{0E}-\x{1F}\x{7F}-\x{9F}\x{AD}\x{600}-\x{605}\x{61C}\x{6DD}"
    r"\x{70F}\x{180E}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2064}\x{2066}-\x{206F}"
    r"\x{FEFF}\x{FFF9}-\x{FFFB}\x{FFFD}\x{110BD}\x{1BCA0}-\x{1BCA3}\x{1D173}-\x{1D17A}\x{E0001}"
    r"\x{E0020}-\x{E007F}\x{F0000}-\x{FFFFD}\x{100000}-\x{10FFFD}]"
)
_SPACES = r"[\t\n\r\p{Z}]"
_CJK = (
    r"[\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B81F}"
    r"\x{2B920}-\x{2CEAF}\x{2F800}-\x{2FA1F}]"
)
_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"


def split_words(
    prompts: tf.Tensor,
    *,
    lowercase: bool = True,
    strip_accents: bool = True,
    marks: Sequence[str] = (),
) -> tf.RaggedTensor:
    r"""Splits prompts into the words of BERT, with operations of TensorFlow and TensorFlow Text.

    Args:
        prompts: a string tensor `[B]`; bytes that are not UTF-8 are removed.
        lowercase: whether to convert letters to lower case.
        strip_accents: whether to remove accents.
        marks: special tokens, which are split off first wherever they occur.

    Returns:
        A ragged string tensor `[B, None]`.

    Example:
        >>> split_words(tf.constant(["A caf\u00e9's sign"])).to_list()
        [[b'a', b'cafe', b"'", b's', b'sign']]
    """
    import tensorflow_text as tf_text

    text = tf.strings.regex_replace(valid(prompts), _PRIVATE, "\N{REPLACEMENT CHARACTER}")
    placeholders = [chr(_FIRST_PRIVATE + i) for i in range(len(marks))]
    for mark, placeholder in zip(marks, placeholders):
        text = tf.strings.regex_replace(text, re.escape(mark), f" {placeholder} ")
    text = tf.strings.regex_replace(text, _REMOVED, "")
    text = tf.strings.regex_replace(text, _SPACES, " ")
    text = tf.strings.regex_replace(text, _CJK, r" \0 ")
    if strip_accents:
        text = tf_text.normalize_utf8(text, "NFD")
        text = tf.strings.regex_replace(text, r"\p{Mn}", "")
    if lowercase:
        text = lower(text)
    words = tf_text.regex_split(text, f" +|{_PUNCTUATION}", _PUNCTUATION)
    flat = words.flat_values
    for mark, placeholder in zip(marks, placeholders):
        flat = tf.where(flat == placeholder, mark, flat)
    return words.with_flat_values(flat)


class BertPieces:
    """A WordPiece tokenizer in a graph, with the ids of the reference implementation.

    Args:
        tokenizer: a `keras_hub.tokenizers.WordPieceTokenizer` that splits texts into words.
    """

    def __init__(self, tokenizer: keras.layers.Layer) -> None:
        import tensorflow_text as tf_text

        vocabulary = tokenizer.get_vocabulary()
        special = getattr(tokenizer, "special_tokens", [])
        self.options = {
            "lowercase": tokenizer.lowercase,
            "strip_accents": tokenizer.strip_accents,
            "marks": tuple(dict.fromkeys([*special, tokenizer.oov_token])),
        }
        self.unknown = vocabulary.index(tokenizer.oov_token)
        with tf.init_scope():
            self._pieces = tf_text.FastWordpieceTokenizer(
                vocabulary,
                suffix_indicator=tokenizer.suffix_indicator,
                max_bytes_per_word=4 * MAX_CHARACTERS,
                token_out_type=tf.int32,
                unknown_token=tokenizer.oov_token,
                no_pretokenization=True,
            )

    def words(self, prompts: tf.Tensor) -> tf.RaggedTensor:
        """Splits prompts `[B]` into words, ragged `[B, None]`."""
        return split_words(prompts, **self.options)

    def __call__(self, prompts: tf.Tensor) -> tf.RaggedTensor:
        """Converts prompts `[B]` to ids, ragged int32 `[B, None]`."""
        words = self.words(prompts)
        ids = self._pieces.tokenize(words.flat_values)  # [number of words, None]
        long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > MAX_CHARACTERS
        rows = ids.value_rowids()
        is_first = tf.range(tf.size(rows), dtype=rows.dtype) == tf.gather(ids.row_starts(), rows)
        kept = ~tf.gather(long, rows) | is_first
        values = tf.where(tf.gather(long, rows), self.unknown, ids.values)
        splits = tf.gather(ids.row_splits, words.row_splits)
        pieces = tf.RaggedTensor.from_row_splits(values, splits)
        return tf.ragged.boolean_mask(pieces, pieces.with_flat_values(kept))
