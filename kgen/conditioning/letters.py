"""Small letters of a text, the same on every machine.

TensorFlow lower-cases by the language of the process: in Turkish "I" becomes a dotless i, and a
prompt would have other ids than in training. It also looks at the neighbours of a Greek sigma. The
published tokenizers do neither, so letters that depend on either are replaced first.
"""

import tensorflow as tf

_SPECIAL = (
    ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "i\N{COMBINING DOT ABOVE}"),
    ("\N{GREEK CAPITAL LETTER SIGMA}", "\N{GREEK SMALL LETTER SIGMA}"),
    ("\N{LATIN CAPITAL LETTER I WITH OGONEK}", "\N{LATIN SMALL LETTER I WITH OGONEK}"),
    ("\N{LATIN CAPITAL LETTER I WITH GRAVE}", "\N{LATIN SMALL LETTER I WITH GRAVE}"),
    ("\N{LATIN CAPITAL LETTER I WITH ACUTE}", "\N{LATIN SMALL LETTER I WITH ACUTE}"),
    ("\N{LATIN CAPITAL LETTER I WITH TILDE}", "\N{LATIN SMALL LETTER I WITH TILDE}"),
)


def lower(text: tf.Tensor) -> tf.Tensor:
    """Lower-cases UTF-8 text, each character by itself.

    Args:
        text: a string tensor of any shape, of valid UTF-8.

    Returns:
        A string tensor of that shape.

    Example:
        >>> lower(tf.constant("ICH BIN")).numpy()
        b'ich bin'
    """
    text = tf.strings.lower(text)  # ASCII alone
    for capital, small in _SPECIAL:
        text = tf.strings.regex_replace(text, capital, small)
    return tf.strings.lower(text, encoding="utf-8")


def valid(text: tf.Tensor) -> tf.Tensor:
    r"""Replaces bytes that are not UTF-8 by U+FFFD.

    Example:
        >>> valid(tf.constant(b"caf\xe9")).numpy().decode()
        'caf\ufffd'
    """
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
