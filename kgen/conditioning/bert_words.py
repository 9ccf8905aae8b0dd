r"""Words of BERT's tokenizers: how a text is cut and spelled before its pieces are looked up.

    text --> without control characters, every space an ASCII space, CJK characters apart
         --> decomposed (NFD), without accents, in small letters        (uncased vocabularies only)
         --> cut at spaces, and before and behind punctuation
         --> each word the longest pieces of the vocabulary, from the left; or [UNK]

KerasHub differs in a graph: spaces other than ASCII's join the words beside them, compatible forms
are folded (a ligature becomes its letters, full-width letters become ASCII, Hangul is composed,
German sharp s becomes "ss"), control characters cut words, and a word of more than 100 *bytes*, not
characters, is unknown. Each is another id than the network was trained with, so the text is cut
here. As in transformers the marks ("[SEP]") are cut out first, where a text spells them exactly.

The reference has the character classes of Unicode 8 (2015). Of younger characters, which no
published vocabulary holds, these get other ids:

    * accents (\p{Mn}) younger than that, which are dropped here and make a word unknown there;
    * punctuation younger than that, at which words are cut here and not there;
    * letters whose small form TensorFlow does not know (Vithkuqi, and some for Latin phonetics).

Also the vowel sign U+1734, which is an accent there alone, and U+166D and U+111C9, which are
punctuation there alone.

References:
  Devlin et al. (2018), https://arxiv.org/abs/1810.04805; the tokenizer is that of
  https://github.com/google-research/bert/blob/master/tokenization.py in the form of
  https://github.com/huggingface/tokenizers (normalizers/bert.rs, pre_tokenizers/bert.rs).
"""

import re

import tensorflow as tf

from kgen.conditioning.letters import lower, valid

MAX_CHARACTERS = 100  # of a word; a longer one is unknown
_PRIVATE = r"[\x{E000}-\x{F8FF}]"
_FIRST_PRIVATE = 0xE000
# Control, format and private characters of Unicode 8, U+0000 and U+FFFD; the marks of this module,
# which are private characters too, are put in behind their removal.
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


def split_words(prompts: tf.Tensor, *, lowercase=True, strip_accents=True, marks=()):
    r"""Cuts prompts into BERT's words, in TensorFlow operations (TensorFlow Text's among them).

    Args:
        prompts: a string tensor `[B]`; bytes that are not UTF-8 are dropped.
        lowercase: whether letters become small ones.
        strip_accents: whether accents are dropped.
        marks: words that are cut out first, wherever they stand.

    Returns:
        A ragged string tensor `[B, None]`.

    Example:
        >>> split_words(tf.constant(["A caf\u00e9's sign"])).to_list()
        [[b'a', b'cafe', b"'", b's', b'sign']]
    """
    import tensorflow_text as tf_text

    text = tf.strings.regex_replace(valid(prompts), _PRIVATE, "\N{REPLACEMENT CHARACTER}")
    signs = [chr(_FIRST_PRIVATE + i) for i in range(len(marks))]
    for mark, sign in zip(marks, signs):
        text = tf.strings.regex_replace(text, re.escape(mark), f" {sign} ")
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
    for mark, sign in zip(marks, signs):
        flat = tf.where(flat == sign, mark, flat)
    return words.with_flat_values(flat)


class BertPieces:
    """The ids of texts by the vocabulary of a `keras_hub.tokenizers.WordPieceTokenizer`.

    Args:
        tokenizer: the tokenizer, one that cuts texts into words.
    """

    def __init__(self, tokenizer):
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
        """Cuts prompts `[B]` into words `[B, None]`."""
        return split_words(prompts, **self.options)

    def __call__(self, prompts: tf.Tensor) -> tf.RaggedTensor:
        """Cuts prompts `[B]` into ids, ragged int32 `[B, None]`."""
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
