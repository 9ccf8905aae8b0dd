"""Vectors of numbers as a condition, such as attributes, coordinates or a regression target.

    cond = {"pooled": W v + b},    null = {"pooled": a learned vector}

Reference:
  Ho and Salimans (2022), https://arxiv.org/abs/2207.12598, section 3.1 (a learned null condition).
"""

from typing import Any

import numpy as np
import tensorflow as tf

from kgen.checks import check_count
from kgen.conditioning.conditioner import Conditioner
from kgen.serialization import serializable


@serializable
class Vector(Conditioner):
    """A conditioner that embeds vectors of numbers linearly.

    The numbers should be standardised: subtract their mean and divide by their standard deviation.

    Args:
        size: D, the length of a vector.
        width: width of the embedding.
        batch_key: the key of the vectors in a batch.
        **kwargs: `name` and `dtype` of a Keras layer.

    Raises:
        ValueError: if `size` or `width` is less than 1.

    Example:
        >>> Vector(2, 8)([[0.5, -1.0]])["pooled"].shape
        TensorShape([1, 8])
    """

    def __init__(
        self, size: int, width: int = 64, batch_key: str = "vectors", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_count("size", size)
        check_count("width", width)
        self.size = size
        self.width = width
        self.batch_key = batch_key
        self.kernel = self.add_weight(
            shape=(size, width), initializer="glorot_uniform", name="kernel"
        )
        self.bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")
        self.null_vector = self.add_weight(
            shape=(width,), initializer="random_normal", name="null_vector"
        )
        self.built = True

    def prepare(self, values: Any) -> tf.Tensor:
        """Returns vectors as float32 `[B, D]`.

        Args:
            values: `[B, D]`, or `[D]` for one example; with D = 1 also `[B]`.

        Raises:
            TypeError: if the values are not numbers.
            ValueError: if the values have another shape, or one is not finite.
        """
        values = values if tf.is_tensor(values) else np.asarray(values)
        dtype = tf.as_dtype(values.dtype)
        if not (dtype.is_floating or dtype.is_integer):
            raise TypeError(f"`{self.batch_key}` must be numbers. Received: {dtype.name}.")
        rows = tf.cast(values, tf.float32)
        if rows.shape.rank is not None and rows.shape.rank < 2:
            rows = tf.reshape(rows, [1, -1] if self.size > 1 else [-1, 1])
        if rows.shape.rank not in (2, None) or rows.shape[-1] not in (self.size, None):
            raise ValueError(
                f"`{self.batch_key}` must have shape [B, {self.size}]. "
                f"Received: shape {tuple(values.shape)}."
            )
        if not tf.inside_function() and not bool(tf.reduce_all(tf.math.is_finite(rows))):
            raise ValueError(f"`{self.batch_key}` must be finite. Received: NaN or infinity.")
        return tf.ensure_shape(rows, [None, self.size])

    def graph_checks(self, values: Any) -> list[tuple[tf.Tensor, str]]:
        """Returns the check that numbers are finite."""
        finite = tf.reduce_all(tf.math.is_finite(values))
        return [(finite, f"`{self.batch_key}` must be finite.")]

    def call(self, rows: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the embeddings `[B, width]` of vectors `[B, D]`."""
        return {"pooled": rows @ self.kernel + self.bias}

    def null(self, batch_size: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the learned null vector, `batch_size` times."""
        row = tf.cast(self.null_vector, self.compute_dtype)
        return {"pooled": tf.tile(row[tf.newaxis], [batch_size, 1])}

    def signature(self, form: str | None = None) -> dict[str, tf.TensorSpec]:
        """Returns the inputs of an export: float32 `[B, D]`."""
        return {self.batch_key: tf.TensorSpec([None, self.size], tf.float32, self.batch_key)}
