"""What `generate` is asked for: its arguments, checked, as one row for each example."""

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_data, check_interval
from kgen.conditioning.conditioner import is_condition, num_rows
from kgen.tensors import as_seed


def condition_rows(conditioner, values, num=None, name="condition"):
    """Makes one row for each example of a condition.

    Args:
        conditioner: a `Conditioner` or None.
        values: what `conditioner.prepare` takes, or a condition already.
        num: None, or the number of examples; one row is then that of all.
        name: of the argument, for messages.

    Returns:
        A tensor or a dictionary of tensors, or None without a conditioner.

    Raises:
        TypeError: if the values are of another type.
        ValueError: if they are out of range, or not as many as examples, or there is no
            conditioner.
    """
    if values is None:
        return None
    if conditioner is None:
        number = isinstance(values, (int, np.integer))
        hint = f" For {values} examples, pass num_samples={values}." if number else ""
        raise ValueError(f"`{name}` needs a model with a conditioner.{hint}")
    if is_condition(values):
        rows = {key: tf.convert_to_tensor(value) for key, value in values.items()}
    else:
        try:
            rows = conditioner.prepare(values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"`{name}` does not fit the model: {error}") from error
    length = num_rows(rows)
    if num is not None and length == 1:
        return tf.nest.map_structure(lambda row: tf.repeat(row, num, axis=0), rows)
    if num not in (None, length):
        raise ValueError(
            f"`{name}` must be one for all examples or one for each. "
            f"Received: {length} for {num} examples."
        )
    return rows


def condition_and_number(conditioner, condition, num_samples):
    """Returns the rows of all examples, and how many examples there are.

    Args:
        conditioner: a `Conditioner` or None.
        condition: what the model is given, or None.
        num_samples: how many for each condition (1), or, without one, how many (required).

    Raises:
        ValueError: unless there is one of the two that the model needs.
    """
    if condition is None:
        if conditioner is not None:
            raise ValueError(
                "`condition` must be given to a model with a conditioner. Received: None."
            )
        if num_samples is None:
            raise ValueError(
                "`num_samples` must be given to a model without a conditioner. Received: None."
            )
        check_count("num_samples", num_samples)
        return None, int(num_samples)
    rows = condition_rows(conditioner, condition)
    each = 1 if num_samples is None else num_samples
    check_count("num_samples", each)
    if each > 1:
        rows = tf.nest.map_structure(lambda row: tf.repeat(row, each, axis=0), rows)
    return rows, num_rows(rows)


def seeds_and_indices(seed, num):
    """Returns a seed for each example, and what tells apart those of one seed.

    Args:
        seed: None, an integer, or a sequence of `num` integers.
        num: number of examples.

    Returns:
        int32 `[num, 2]` and int32 `[num]`.

    Raises:
        ValueError: if there are not as many seeds as examples.
    """
    if seed is None or isinstance(seed, (int, np.integer)):
        return tf.tile(as_seed(seed)[tf.newaxis], [num, 1]), tf.range(num)
    many = list(np.asarray(seed).tolist()) if np.ndim(seed) == 1 else []
    if len(many) != num or not all(isinstance(one, int) for one in many):
        raise ValueError(
            f"`seed` must be None, an integer, or {num} integers, one for each example. "
            f"Received: seed={seed!r}."
        )
    return tf.stack([as_seed(one) for one in many]), tf.zeros([num], tf.int32)


def start_of(num, shape, noise, images, strength, mask):
    """Checks what sampling is to begin from, and puts numbers and masks into a dictionary.

    Args:
        num: number of examples.
        shape: of the noise of one.
        noise: None or z at t = 1, `[num, *shape]`.
        images: None or the examples to begin from.
        strength: None or the time at which to begin.
        mask: None or 1 where there is something to paint, `[num or 1, H, W, 1]`.

    Returns:
        A dictionary that may hold `"noise"`, `"strength"` and `"mask"`.

    Raises:
        ValueError: if one of them does not fit or goes without another.
    """
    given = {}
    if noise is not None:
        if tuple(np.shape(noise)) != (num, *shape):
            raise ValueError(
                f"`noise` must have shape {(num, *shape)}. Received: {tuple(np.shape(noise))}."
            )
        check_data("noise", noise, shape)
        if images is not None and mask is None:
            raise ValueError("`noise` and `images` must not be given together without a `mask`.")
        given["noise"] = tf.cast(noise, tf.float32)
    if images is None:
        if mask is not None or strength is not None:
            raise ValueError("`strength` and `mask` need `images`. Received: images=None.")
        return given
    if np.shape(images)[:1] != (num,):
        raise ValueError(f"`images` must be {num} examples. Received: shape {np.shape(images)}.")
    if noise is not None and strength is not None:
        raise ValueError("`strength` must be None with `noise`, which begins at t = 1.")
    strength = (0.6 if mask is None else 1.0) if strength is None else strength
    check_interval("strength", strength, "(0, 1]")
    if noise is None:
        given["strength"] = tf.constant(strength, tf.float32)
    if mask is not None:
        mask = _mask(mask, num, shape, np.shape(images))
        given["mask"] = tf.repeat(mask, num // len(mask), axis=0)
    return given


def _mask(mask, num, shape, images):
    """The mask as float32, checked; `images` is the shape of the pictures."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bfiu":
        raise TypeError(f"`mask` must hold numbers. Received: dtype {mask.dtype}.")
    size, channels = images[1:-1], (1, shape[-1]) if images[1:] == tuple(shape) else (1,)
    fits = mask.ndim == len(images) and mask.shape[1:-1] == size
    if not fits or mask.shape[-1] not in channels or len(mask) not in (1, num):
        expected = ", ".join(map(str, [f"{num} or 1", *size, 1]))
        raise ValueError(f"`mask` must have shape [{expected}]. Received: shape {mask.shape}.")
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN is neither
        raise ValueError(
            "`mask` must be in [0, 1], 1 where there is something to paint. "
            f"Received: values in [{mask.min()}, {mask.max()}]."
        )
    return mask.astype("float32")


def rows_of(values, part):
    """Returns a part of all rows of nested tensors; scalars are for all."""
    return tf.nest.map_structure(
        lambda value: value if value is None or not value.shape.rank else value[part], values
    )


def slices(num, size, verbose=0):
    """Yields slices of `num` examples, `size` at once; with `verbose` a progress bar of them."""
    check_count("batch_size", size)
    bar = keras.utils.Progbar(num, verbose=verbose)
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))
        bar.add(min(size, num - start))
