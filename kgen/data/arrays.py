"""Batches of pictures for `fit`, from memory or read on demand.

The range of the data depends on the likelihood. `values` is the conversion of a level g in 0..255:

    "binary"   x ~ Bernoulli(g / 255), drawn again in each epoch; without shuffling drawn once, from
               `seed`, so that evaluations are reproducible
    "unit"     x = g / 255, in [0, 1]
    "signed"   x = g / 127.5 - 1, in [-1, 1]

Reference:
  Salakhutdinov and Murray (2008), https://doi.org/10.1145/1390156.1390266 (binarised by sampling).
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_one_of

VALUES = ("binary", "unit", "signed")


def batches(
    images: np.ndarray,
    columns: Mapping[str, np.ndarray | tf.RaggedTensor] | None = None,
    *,
    values: Literal["binary", "unit", "signed"] = "signed",
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Returns the batches of an array of pictures.

    Args:
        images: uint8 `[N, H, W, C]`.
        columns: further entries of the batches, a dictionary of arrays `[N, ...]`, such as
            `"labels"`; from each row of a `tf.RaggedTensor` `[N, None]` (several captions of a
            picture) one value is drawn, again in each epoch, or once without shuffling.
        values: `"binary"`, `"unit"` or `"signed"`; see the module.
        batch_size: number of pictures in a batch, a positive integer.
        shuffle: whether to shuffle (and binarise) again in each epoch.
        seed: integer seed of the order, the binarisation and the drawn captions.

    Returns:
        A `tf.data.Dataset` of known length, of float32 `[B, H, W, C]`; with `columns`, of
        dictionaries whose entry `"images"` are the pictures.

    Raises:
        TypeError: if `batch_size` is not a number.
        ValueError: if an argument has another value.

    Example:
        >>> import numpy as np
        >>> data = batches(np.zeros([5, 8, 8, 3], "uint8"), batch_size=2)
        >>> len(data), next(iter(data)).shape
        (3, TensorShape([2, 8, 8, 3]))
    """
    images = tf.constant(images)

    def take(index: tf.Tensor) -> tf.Tensor:
        return tf.gather(images, index)

    return batches_of(
        take,
        len(images),
        columns,
        values=values,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
    )


def batches_of(
    take: Callable[[tf.Tensor], tf.Tensor],
    count: int,
    columns: Mapping[str, np.ndarray | tf.RaggedTensor] | None = None,
    *,
    values: Literal["binary", "unit", "signed"],
    batch_size: int,
    shuffle: bool,
    seed: int,
) -> tf.data.Dataset:
    """Returns batches of pictures that a function returns for their indices.

    Args:
        take: a function of tensors, from indices `[B]` to uint8 `[B, H, W, C]`.
        count: N, the number of pictures.
        columns: see `batches`.
        values: see `batches`.
        batch_size: see `batches`.
        shuffle: see `batches`.
        seed: see `batches`.

    Returns:
        A `tf.data.Dataset`; see `batches`.

    Raises:
        TypeError: see `batches`.
        ValueError: see `batches`.
    """
    check_one_of("values", values, VALUES)
    check_count("batch_size", batch_size)
    columns = {
        name: column if isinstance(column, tf.RaggedTensor) else tf.constant(column)
        for name, column in (columns or {}).items()
    }
    # Whole batches are gathered at once, which is much faster than picture by picture.
    order = tf.data.Dataset.range(count)
    if shuffle:
        order = order.shuffle(count, seed=seed, reshuffle_each_iteration=True)
    draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=bool(shuffle))
    rows = tf.data.Dataset.zip(order.batch(batch_size), draws.batch(2, drop_remainder=True))

    def batch(index: tf.Tensor, draw: tf.Tensor) -> tf.Tensor | dict[str, tf.Tensor]:
        x = tf.cast(take(index), tf.float32)
        if values == "binary":
            x = tf.cast(tf.random.stateless_uniform(tf.shape(x), draw) * 255 < x, tf.float32)
        else:
            x = x / 255 if values == "unit" else x / 127.5 - 1
        others = {name: _rows(column, index, draw) for name, column in columns.items()}
        return {"images": x, **others} if others else x

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    made = rows.map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    return made.with_options(options).prefetch(tf.data.AUTOTUNE)


def _rows(column: np.ndarray | tf.RaggedTensor, index: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """Returns rows of a column; of a ragged column, one random value per row."""
    if not isinstance(column, tf.RaggedTensor):
        return tf.gather(column, index)
    starts, lengths = tf.gather(column.row_starts(), index), tf.gather(column.row_lengths(), index)
    seed = tf.random.experimental.stateless_fold_in(draw, 1)
    share = tf.random.stateless_uniform(tf.shape(index), seed, dtype=tf.float64)
    return tf.gather(
        column.values, starts + tf.cast(share * tf.cast(lengths, share.dtype), tf.int64)
    )
