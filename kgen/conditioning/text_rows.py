"""Encoding of many prompts: each distinct one once, in batches of similar length.

A row is the encoding of one prompt without padding: its tokens `[l, D]` and its pooled vector
`[D]`, numpy arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

Row: TypeAlias = tuple[np.ndarray, np.ndarray]


class RowCache:
    """The rows of the prompts that were encoded before, in an object that Keras does not track."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}


def encode_rows(
    prompts: Sequence[str],
    tokenize: Callable[[Sequence[str]], dict[str, tf.Tensor]],
    encode: Callable[..., dict[str, tf.Tensor]],
    batch_size: int,
    progress: bool,
) -> dict[str, Row]:
    """Encodes prompts, the shortest first, so that a batch needs little padding.

    Args:
        prompts: distinct prompts.
        tokenize: a function that returns `"token_ids"` and `"padding_mask"` `[N, L]`.
        encode: a function of ids and a mask that returns the condition.
        batch_size: number of prompts that are encoded at once.
        progress: whether to print a progress bar, if there is more than one batch.

    Returns:
        The rows by prompt.
    """
    ids = {key: value.numpy() for key, value in tokenize(prompts).items()}
    lengths = ids["padding_mask"].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    starts = range(0, len(order), batch_size)
    bar = keras.utils.Progbar(len(starts)) if progress and len(starts) > 1 else None
    rows = {}
    for start in starts:
        part = order[start : start + batch_size]
        width = lengths[part[-1]]
        cond = encode(*(ids[key][part, :width] for key in ids))
        tokens, pooled = cond["tokens"].numpy(), cond["pooled"].numpy()
        for row, i in enumerate(part):
            rows[prompts[i]] = (tokens[row, : lengths[i]].copy(), pooled[row].copy())
        if bar is not None:
            bar.add(1)
    return rows


def padded(
    prompts: Sequence[str], rows: Mapping[str, Row], length: int, width: int
) -> dict[str, np.ndarray]:
    """Returns the condition of prompts from their rows.

    Args:
        prompts: N prompts, which may repeat.
        rows: the rows by prompt.
        length: number L of tokens with padding.
        width: width D of a token.

    Returns:
        `"tokens"` float32 `[N, L, D]`, zero for padding; `"mask"` bool `[N, L]`; and `"pooled"`
        float32 `[N, D]`.
    """
    tokens = np.zeros([len(prompts), length, width], "float32")
    for i, prompt in enumerate(prompts):
        tokens[i, : len(rows[prompt][0])] = rows[prompt][0]
    lengths = np.array([len(rows[prompt][0]) for prompt in prompts])
    return {
        "tokens": tokens,
        "mask": np.arange(length) < lengths[:, np.newaxis],
        "pooled": np.stack([rows[prompt][1] for prompt in prompts]),
    }
