"""Warnings about prompts that are truncated, or that consist of unknown words only.

A WordPiece vocabulary has no token for many emoji and rare characters: a word with one becomes the
unknown token. A prompt of such words alone is to the model the same as an empty one.
"""

import unicodedata
import warnings

import numpy as np
import tensorflow as tf

from kgen.conditioning.packing import Packer


def warn_of_truncated(
    prompts: tf.Tensor, lengths: tf.Tensor, capacity: int, stacklevel: int = 3
) -> None:
    """Warns of prompts that are longer than a text encoder reads.

    Args:
        prompts: a string tensor `[B]`, outside of a graph.
        lengths: number of tokens of each prompt, `[B]`.
        capacity: largest number of tokens that are not truncated.
        stacklevel: see `warnings.warn`.
    """
    too_long = np.flatnonzero(lengths.numpy() > capacity)
    if len(too_long):
        first = prompts[too_long[0]].numpy().decode("utf-8", "replace")
        warnings.warn(
            f"{len(too_long)} of {len(lengths)} `prompts` are longer than the encoder's "
            f"{capacity} tokens and are truncated, the first of them {first!r}.",
            stacklevel=stacklevel,
        )


def warn_of_unknown(
    packer: Packer, prompts: tf.Tensor, ids: tf.Tensor, mask: tf.Tensor, stacklevel: int = 3
) -> None:
    """Warns of prompts that are not empty but have no known token.

    Args:
        packer: the `Packer` that returned the ids.
        prompts: a string tensor `[B]`, outside of a graph.
        ids: int32 `[B, L]`.
        mask: bool `[B, L]`, false for padding.
        stacklevel: see `warnings.warn`.
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
    # The message shows a text without words (only of control characters) as it is.
    found = dict.fromkeys(word for row, (_, text) in zip(words, lost) for word in row or [text])
    named = [_named(word) for word in list(found)[:5]]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    warnings.warn(
        f"{len(lost)} of {len(known)} `prompts` have no word that the vocabulary of the text "
        f"encoder knows, so each counts as an empty one. Unknown: {', '.join(named)}{more}.",
        stacklevel=stacklevel,
    )


def _named(word: str) -> str:
    """Returns a word for a message; of a single character, with its Unicode name."""
    letters = [c for c in word if c != "\N{VARIATION SELECTOR-16}"]
    name = unicodedata.name(letters[0], "").lower() if len(letters) == 1 else ""
    return f"{ascii(word) if not word.isprintable() else repr(word)}{f' ({name})' if name else ''}"
