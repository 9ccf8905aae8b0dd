"""Validation of the arguments of `generate`, and their conversion to one row per example."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_data, check_interval
from kgen.conditioning.conditioner import Conditioner, is_condition, num_rows
from kgen.tensors import as_seed
from kgen.types import TensorLike


def condition_rows(
    conditioner: Conditioner | None, values: Any, num: int | None = None, name: str = "condition"
) -> Any:
    """Converts a condition to one row per example.

    Args:
        conditioner: a `Conditioner` or None.
        values: what `conditioner.prepare` accepts, an encoded condition, or None.
        num: None, or the number of examples, for which a single row is repeated.
        name: name of the argument, for messages.

    Returns:
        A tensor or a dictionary of tensors; None if `values` is None.

    Raises:
        TypeError: if the values have the wrong type.
        ValueError: if the values are out of range, their number is not `num`, or there is no
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


def condition_and_number(
    conditioner: Conditioner | None, condition: Any, num_samples: int | None
) -> tuple[Any, int]:
    """Converts a condition to rows, and returns them with the number of examples.

    Args:
        conditioner: a `Conditioner` or None.
        condition: the condition, or None for a model without a conditioner.
        num_samples: number of examples per condition (None for 1); without a condition, the number
            of examples, which is then required.

    Returns:
        The rows, or None without a condition, and the number of examples.

    Raises:
        ValueError: if a model with a conditioner has no condition, or a model without one has no
            `num_samples`.
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


def seeds_and_indices(seed: int | Sequence[int] | None, num: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a seed per example, and an index that distinguishes examples with the same seed.

    Args:
        seed: None, an integer, or a sequence of `num` integers.
        num: number of examples.

    Returns:
        The seeds, int32 `[num, 2]`, and the indices, int32 `[num]`.

    Raises:
        ValueError: if the number of seeds is not the number of examples.
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


def start_of(
    num: int,
    shape: tuple,
    noise: TensorLike | None,
    images: np.ndarray | None,
    strength: float | None,
    mask: TensorLike | None,
) -> dict[str, tf.Tensor]:
    """Validates the start of sampling: given noise, or given examples for editing.

    Args:
        num: number of examples.
        shape: shape of the noise of one example.
        noise: None, or z at t = 1, `[num, *shape]`.
        images: None, or the examples to edit, `[num, ...]`.
        strength: None, or the time in (0, 1] at which to start from `images`.
        mask: None, or 1 where a value is to be generated, `[num or 1, H, W, 1]`.

    Returns:
        A dictionary of tensors that may have the keys `"noise"`, `"strength"` and `"mask"`.

    Raises:
        TypeError: if `mask` does not hold numbers.
        ValueError: if an argument has the wrong shape or range, or needs another argument.
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


def _mask(mask: TensorLike, num: int, shape: tuple, images: tuple) -> np.ndarray:
    """Validates the mask and returns it as float32; `images` is the shape of the pictures."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bfiu":
        raise TypeError(f"`mask` must hold numbers. Received: dtype {mask.dtype}.")
    size, channels = images[1:-1], (1, shape[-1]) if images[1:] == tuple(shape) else (1,)
    fits = mask.ndim == len(images) and mask.shape[1:-1] == size
    if not fits or mask.shape[-1] not in channels or len(mask) not in (1, num):
        expected = ", ".join(map(str, [f"{num} or 1", *size, 1]))
        raise ValueError(f"`mask` must have shape [{expected}]. Received: shape {mask.shape}.")
    if not (mask.min() >= 0 and mask.max() <= 1):  # also rejects NaN
        raise ValueError(
            "`mask` must be in [0, 1], and 1 where a value is to be generated. "
            f"Received: values in [{mask.min()}, {mask.max()}]."
        )
    return mask.astype("float32")


def rows_of(values: Any, part: slice) -> Any:
    """Returns a slice of the rows of nested tensors; scalars and None are unchanged."""
    return tf.nest.map_structure(
        lambda value: value if value is None or not value.shape.rank else value[part], values
    )


def slices(num: int, size: int, verbose: int = 0) -> Iterator[slice]:
    """Yields slices of at most `size` of `num` examples; `verbose=1` draws a progress bar."""
    check_count("batch_size", size)
    bar = keras.utils.Progbar(num, verbose=verbose)
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))
        bar.add(min(size, num - start))
