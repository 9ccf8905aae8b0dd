"""What `fit` is given: a first look at it, and an order that a resumed training can find again."""

import types
import warnings

import keras
import numpy as np
import tensorflow as tf


def unpack(data):
    """The batch of a data set; kgen's models take no targets."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if weight is not None:
        raise ValueError("The data must yield inputs only: kgen's models have no sample weights.")
    if y is not None:
        raise ValueError(
            "The data must yield inputs only: kgen's models bring their own targets, so "
            "`fit(x, x)` becomes `fit(x)`."
        )
    return x


def as_arrays(x):
    """A dictionary of arrays as Keras can batch it, with text as tensors; all else as it is.

    Raises:
        ValueError: if the arrays hold different numbers of examples, or one is a single value.

    Example:
        >>> as_arrays({"prompts": np.array(["a", "b"])})["prompts"].dtype
        tf.string
    """
    if not isinstance(x, dict):
        return x
    arrays = {key: a if tf.is_tensor(a) else np.asarray(a) for key, a in x.items()}
    for key, a in arrays.items():
        if not len(a.shape):
            raise ValueError(
                "The arrays of `x` must hold an entry for each example. "
                f"Received: one value of {key!r}, {x[key]!r}."
            )
    lengths = {key: len(a) for key, a in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "The arrays of `x` must hold the same number of examples. Received: "
            + ", ".join(f"{num} of {key!r}" for key, num in lengths.items())
            + "."
        )
    return {key: tf.constant(a) if _is_text(a) else a for key, a in arrays.items()}


def _is_text(a):
    kind = "" if tf.is_tensor(a) else a.dtype.kind
    return kind in ("S", "U") or (kind == "O" and all(isinstance(v, (str, bytes)) for v in a.flat))


def first_batch(x):
    """The arrays of `fit` or the first batch of its data set; None of anything else.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(x, tf.data.Dataset):
        x = next(iter(x.take(1)), None)
        if x is None:
            raise ValueError("`x` must hold at least one example. Received: an empty data set.")
        x = unpack(x)
    return x if isinstance(x, (np.ndarray, tf.Tensor, dict)) else None


def ordered(x, options, seed):
    """Makes a data set whose place a resumed training can find again.

    Args:
        x: arrays or a data set.
        options: of `fit`; what is done here is taken out, and `steps_per_epoch` is added.
        seed: an integer, of the order of arrays.

    Returns:
        The data set, and a namespace of `dataset` and `steps_per_epoch`, as they were asked for.
    """
    if isinstance(x, (np.ndarray, tf.Tensor, dict)):
        arrays = tf.nest.map_structure(tf.convert_to_tensor, x)
        num = len(tf.nest.flatten(arrays)[0])
        if options.get("validation_split"):  # the last examples, as in Keras
            num = int(num * (1 - options.pop("validation_split")))
            options["validation_data"] = tf.nest.map_structure(lambda a: a[num:], arrays)
            arrays = tf.nest.map_structure(lambda a: a[:num], arrays)
        x = tf.data.Dataset.range(num)
        if options.pop("shuffle", True):
            x = x.shuffle(num, seed=seed)
        x = x.batch(options.pop("batch_size", None) or 32)
        x = x.map(lambda rows: tf.nest.map_structure(lambda a: tf.gather(a, rows), arrays))
        x = x.prefetch(2)
    steps = options.get("steps_per_epoch")
    if steps is None and isinstance(x, tf.data.Dataset) and int(x.cardinality()) > 0:
        # Keras opens a data set twice an epoch if it is not told how long an epoch is.
        options["steps_per_epoch"] = int(x.cardinality())
    elif steps is None:
        warnings.warn(
            "`x` has no known length, so that a training that is resumed may see it in another "
            "order. Use `x.apply(tf.data.experimental.assert_cardinality(num_batches))`.",
            stacklevel=4,
        )
    return x, types.SimpleNamespace(dataset=x, steps_per_epoch=steps)
