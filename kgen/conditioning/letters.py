"""Conversion of a text to lower case, independent of the locale.

The lower case of TensorFlow depends on the locale of the process: in Turkish "I" becomes a dotless
i, and a prompt would have other ids than in training. That of a Greek sigma depends on its
neighbours. Neither is the case in the published tokenizers, so these letters are replaced first.
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
    """Converts a text to lower case, each character independently of the others.

    Args:
        text: a string tensor of any shape, of valid UTF-8.

    Returns:
        A string tensor of the same shape.

    Example:
        >>> lower(tf.constant("ICH BIN")).numpy()
        b'ich bin'
    """
    text = tf.strings.lower(text)  # only the letters of ASCII
    for capital, small in _SPECIAL:
        text = tf.strings.regex_replace(text, capital, small)
    return tf.strings.lower(text, encoding="utf-8")


def valid(text: tf.Tensor) -> tf.Tensor:
    r"""Replaces bytes that are not valid UTF-8 by U+FFFD, in a string tensor of any shape.

    Example:
        >>> valid(tf.constant(b"caf\xe9")).numpy().decode()
        'caf\ufffd'
    """
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
