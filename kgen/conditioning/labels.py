"""Class labels as a condition: one learned vector per class, and one for the null condition.

    cond = {"pooled": table[label]},    null = {"pooled": table[num_classes]}

References:
  Ho and Salimans (2022), https://arxiv.org/abs/2207.12598, section 3.1 (the null token).
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kgen.checks import check_count
from kgen.conditioning.conditioner import Conditioner
from kgen.serialization import serializable


@serializable
class Labels(Conditioner):
    """A table of class embeddings.

    Args:
        num_classes: number of classes; labels are 0 to `num_classes - 1`.
        width: width of an embedding.
        names: None, or the names of the classes, which are then accepted as labels too.
        **kwargs: `name` and `dtype` of a Keras layer.

    Raises:
        ValueError: if `num_classes` or `width` is less than 1, or `names` are not one distinct name
            per class.

    Example:
        >>> Labels(10, 8)(tf.constant([3, 1]))["pooled"].shape
        TensorShape([2, 8])
        >>> Labels(2, 8, names=["cat", "dog"]).prepare(["dog", "cat"]).numpy().tolist()
        [1, 0]
    """

    batch_key = "labels"

    def __init__(
        self, num_classes: int, width: int = 64, names: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_count("num_classes", num_classes)
        check_count("width", width)
        if names is not None and len(set(names)) != num_classes:
            raise ValueError(
                f"`names` must be {num_classes} different names. Received: names={names}."
            )
        self.num_classes = num_classes
        self.width = width
        self.names = None if names is None else tuple(names)
        self.table = self.add_weight(
            shape=(num_classes + 1, width), initializer="random_normal", name="table"
        )
        self.built = True

    def prepare(self, values: Any) -> tf.Tensor:
        """Returns labels as an integer tensor `[B]`.

        Args:
            values: a label, integers of any type `[B]`, or names of classes.

        Raises:
            TypeError: if the labels are not integers.
            ValueError: if the labels have another shape, or one is out of range.
            tf.errors.InvalidArgumentError: if a label is out of range, in a compiled function.
        """
        if isinstance(values, (str, bytes)) or _all_strings(values):
            values = self._of_names([values] if isinstance(values, (str, bytes)) else values)
        labels = values if tf.is_tensor(values) else _array(values)
        labels = tf.convert_to_tensor(labels)
        if not labels.dtype.is_integer:
            raise TypeError(f"`labels` must be integers. Received: {labels.dtype.name}.")
        if labels.dtype.size < 4:
            labels = tf.cast(labels, tf.int32)
        elif labels.dtype in (tf.uint32, tf.uint64):
            labels = tf.cast(labels, tf.int64)
        labels = labels[tf.newaxis] if labels.shape.rank == 0 else labels
        if labels.shape.rank not in (1, None):
            raise ValueError(f"`labels` must have shape [B]. Received: shape {labels.shape}.")
        valid = tf.reduce_all((labels >= 0) & (labels < self.num_classes))
        message = f"`labels` must be in 0..{self.num_classes - 1}."
        if tf.inside_function():
            with tf.control_dependencies([tf.debugging.Assert(valid, [message, labels])]):
                return tf.identity(labels)
        if not bool(valid):
            raise ValueError(f"{message} Received: {labels.numpy()}.")
        return labels

    def call(self, rows: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the embeddings `[B, width]` of labels `[B]`."""
        return {"pooled": tf.gather(self.table, rows)}

    def null(self, batch_size: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the embedding of the null condition, `batch_size` times."""
        rows = tf.gather(self.table, tf.fill([batch_size], self.num_classes))
        return {"pooled": tf.cast(rows, self.compute_dtype)}  # Keras casts the output of `call`

    def signature(self, form: str | None = None) -> dict[str, tf.TensorSpec]:
        """Returns the inputs of an export: int32 `[B]`."""
        return {"labels": tf.TensorSpec([None], tf.int32, "labels")}

    def write_vocabulary(self, folder: pathlib.Path) -> dict[str, Any]:
        """Returns `{"names": ...}`, the names of the classes, if they have any. Writes no file."""
        return {} if self.names is None else {"names": list(self.names)}

    def _of_names(self, values: Any) -> list[int]:
        """Returns the labels of class names."""
        values = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
        unknown = sorted(set(values) - set(self.names or ()))
        if unknown:
            expected = "numbers of classes" if self.names is None else f"some of {self.names}"
            raise ValueError(f"`labels` must be {expected}. Received: {unknown[:5]}.")
        return [self.names.index(value) for value in values]


def _all_strings(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "SU" or (
            values.dtype == object and _all_strings([*values.flat])
        )
    many = isinstance(values, (list, tuple)) and len(values) > 0
    return many and all(isinstance(value, (str, bytes)) for value in values)


def _array(values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "iufb" or array.size == 0:
        raise ValueError(f"`labels` must be one for each example. Received: labels={values!r}.")
    return array
