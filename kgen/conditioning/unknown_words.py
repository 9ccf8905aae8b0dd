"""Prompts of which a vocabulary knows nothing: all of them are one and the same to a model.

A WordPiece vocabulary has no piece for many emoji and rare characters; such a word becomes the
unknown mark. Where a prompt has nothing else, the model draws what it draws for an empty one.
"""

import unicodedata
import warnings

import tensorflow as tf


def warn_of_unknown(packer, prompts: tf.Tensor, ids, mask, stacklevel: int = 3) -> None:
    """Warns of prompts whose every piece is unknown, and of those that have none.

    Args:
        packer: the `Packer` that made the ids.
        prompts: a string tensor `[B]`, outside of a graph.
        ids: int32 `[B, L]`.
        mask: bool `[B, L]`.
        stacklevel: as of `warnings.warn`.
    """
    known = mask.numpy() & (ids.numpy() != packer.unknown)
    marks = 1 if packer.start is None else 2
    lost = [i for i in range(len(known)) if known[i].sum() <= marks]
    texts = [prompts[i].numpy().decode("utf-8", "replace") for i in lost]
    lost = [(i, text) for i, text in zip(lost, texts) if text.strip()]
    if not lost:
        return
    words = packer.words(tf.gather(prompts, [i for i, _ in lost])).to_list()
    words = [[word.decode("utf-8", "replace") for word in row] for row in words]
    # What is removed before words are cut (control characters) is named by its text.
    found = dict.fromkeys(word for row, (_, text) in zip(words, lost) for word in row or [text])
    named = [_named(word) for word in list(found)[:5]]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    warnings.warn(
        f"{len(lost)} of {len(known)} `prompts` have no word that the vocabulary of the text "
        f"encoder knows, so each counts as an empty one. Unknown: {', '.join(named)}{more}.",
        stacklevel=stacklevel,
    )


def _named(word):
    """A word, and what its character is called if it has one."""
    letters = [c for c in word if c != "\N{VARIATION SELECTOR-16}"]
    name = unicodedata.name(letters[0], "").lower() if len(letters) == 1 else ""
    return f"{ascii(word) if not word.isprintable() else repr(word)}{f' ({name})' if name else ''}"
