"""Batches of pictures, in memory or read when they are due, ready for `fit`.

What a pixel is depends on the likelihood, so `values` must say it, for a level g in 0..255:

    "binary"   x ~ Bernoulli(g / 255), drawn anew each epoch; drawn once, from `seed`, where not
               shuffled, so that an evaluation is the same every time
    "unit"     x = g / 255, in [0, 1]
    "signed"   x = g / 127.5 - 1, in [-1, 1]

Reference:
  Salakhutdinov and Murray (2008), https://doi.org/10.1145/1390156.1390266 (binarised by sampling).
"""

import tensorflow as tf

from kgen.checks import check_count, check_one_of

VALUES = ("binary", "unit", "signed")


def batches(images, columns=None, *, values="signed", batch_size=32, shuffle=True, seed=0):
    """Returns the batches of an array of pictures.

    Args:
        images: uint8 `[N, H, W, C]`.
        columns: what else a batch has, a dictionary of arrays `[N, ...]`, such as `"labels"`; of a
            `tf.RaggedTensor` `[N, None]` (several captions of a picture) one value is drawn from
            each row, anew each epoch, or once from `seed` where not shuffled.
        values: `"binary"`, `"unit"` or `"signed"`.
        batch_size: pictures in a batch, a positive integer.
        shuffle: whether to shuffle (and binarise) anew each epoch.
        seed: integer from which the order and the binarisation follow.

    Returns:
        A `tf.data.Dataset` of known length, of float32 `[B, H, W, C]`, or with `columns` of
        dictionaries that hold them as `"images"`.

    Raises:
        TypeError: if `batch_size` is no number.
        ValueError: if an argument is none of the above.

    Example:
        >>> import numpy as np
        >>> data = batches(np.zeros([5, 8, 8, 3], "uint8"), batch_size=2)
        >>> len(data), next(iter(data)).shape
        (3, TensorShape([2, 8, 8, 3]))
    """
    images = tf.constant(images)

    def take(index):
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


def batches_of(take, count, columns=None, *, values, batch_size, shuffle, seed):
    """Returns batches of pictures that a function takes by their numbers.

    Args:
        take: a function of tensors: numbers `[B]` to uint8 `[B, H, W, C]`.
        count: number of pictures, N.
        columns: as of `batches`, like the others.
        values: `"binary"`, `"unit"` or `"signed"`.
        batch_size: pictures in a batch.
        shuffle: whether to shuffle.
        seed: integer.

    Returns:
        As `batches`.

    Raises:
        TypeError: as `batches`.
        ValueError: as `batches`.
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

    def batch(index, draw):
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


def _rows(column, index, draw):
    """Rows of a column; of a ragged one a value of each, drawn from two integers."""
    if not isinstance(column, tf.RaggedTensor):
        return tf.gather(column, index)
    starts, lengths = tf.gather(column.row_starts(), index), tf.gather(column.row_lengths(), index)
    seed = tf.random.experimental.stateless_fold_in(draw, 1)
    share = tf.random.stateless_uniform(tf.shape(index), seed, dtype=tf.float64)
    return tf.gather(
        column.values, starts + tf.cast(share * tf.cast(lengths, share.dtype), tf.int64)
    )
