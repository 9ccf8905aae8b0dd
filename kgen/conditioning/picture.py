"""Pictures as a condition, such as low-resolution, grey-scale or damaged pictures to restore.

    cond = {"picture": the picture, at the size of the noisy value},    null = {"picture": 0}

The network concatenates it to its input (`UNet(..., picture=channels)`), so it must have the size
of the noisy value; for a latent diffusion model that of its latents.

References:
  Super-resolution: Saharia et al. (2021), https://arxiv.org/abs/2104.07636, section 2.
  Colourisation, restoration: Saharia et al. (2021), https://arxiv.org/abs/2111.05826.
  The null picture: Brooks et al. (2022), https://arxiv.org/abs/2211.09800, section 3.2.1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kgen.checks import check_one_of
from kgen.conditioning.conditioner import Conditioner
from kgen.serialization import serializable

METHODS = ("area", "bicubic", "bilinear", "lanczos3", "nearest")


@serializable
class Picture(Conditioner):
    """A conditioner for pictures, which are resized to the size of the noisy value.

    Args:
        shape: `(height, width, channels)` of the input pictures.
        size: `(height, width)` to which they are resized; None for no resizing.
        method: a method of `tf.image.resize`.
        batch_key: the key of the pictures in a batch.
        **kwargs: `name` and `dtype` of a Keras layer.

    Raises:
        ValueError: if `shape` or `size` does not hold the right number of integers, or `method` is
            unknown.

    Example:
        >>> Picture((4, 4, 3), (8, 8))(tf.zeros([2, 4, 4, 3]))["picture"].shape
        TensorShape([2, 8, 8, 3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        size: Sequence[int] | None = None,
        method: str = "bicubic",
        batch_key: str = "source",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        size = tuple(shape[:2]) if size is None else tuple(size)
        numbers = [*shape, *size]
        if len(shape) != 3 or len(size) != 2 or not all(isinstance(n, int) for n in numbers):
            raise ValueError(
                "`shape` must be (height, width, channels) and `size` (height, width). "
                f"Received: shape={shape}, size={size}."
            )
        check_one_of("method", method, METHODS)
        self.shape = tuple(shape)
        self.size = size
        self.method = method
        self.batch_key = batch_key
        self.built = True

    @property
    def channels(self) -> int:
        """The number of channels that are concatenated to the input of the network."""
        return self.shape[-1]

    def prepare(self, values: Any) -> tf.Tensor:
        """Returns pictures as float32 `[B, H, W, C]` in [-1, 1].

        Args:
            values: one picture or `[B, H, W, C]`, uint8 or floats in [-1, 1].

        Raises:
            TypeError: if the pictures have another dtype.
            ValueError: if the pictures have another shape, or a value is out of range.
        """
        values = values if tf.is_tensor(values) else np.asarray(values)
        dtype = tf.as_dtype(values.dtype)
        if dtype == tf.uint8:
            values = tf.cast(values, tf.float32) / 127.5 - 1
        elif not dtype.is_floating:
            raise TypeError(
                f"`{self.batch_key}` must be uint8 or floating-point pictures. "
                f"Received: {dtype.name}."
            )
        rows = tf.cast(values, tf.float32)
        rows = rows[tf.newaxis] if rows.shape.rank == 3 else rows
        if not rows.shape.is_compatible_with([None, *self.shape]):
            raise ValueError(
                f"`{self.batch_key}` must have shape [B, {', '.join(map(str, self.shape))}]. "
                f"Received: shape {tuple(values.shape)}."
            )
        if not tf.inside_function() and not bool(tf.reduce_all(tf.abs(rows) <= 1 + 1e-5)):
            raise ValueError(f"`{self.batch_key}` must be in [-1, 1].")
        return tf.ensure_shape(rows, [None, *self.shape])

    def graph_checks(self, values: Any) -> list[tuple[tf.Tensor, str]]:
        """Returns the check that pictures are in [-1, 1]."""
        inside = tf.reduce_all(tf.abs(values) <= 1 + 1e-5)  # false for NaN
        return [(inside, f"`{self.batch_key}` must be in [-1, 1].")]

    def call(self, rows: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the pictures `[B, h, w, C]` at the size of the noisy value."""
        if self.size != self.shape[:2]:
            rows = tf.image.resize(tf.cast(rows, tf.float32), self.size, self.method)
        return {"picture": tf.cast(rows, self.compute_dtype)}

    def null(self, batch_size: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `batch_size` pictures of zeros, `[B, h, w, C]`."""
        return {"picture": tf.zeros([batch_size, *self.size, self.channels], self.compute_dtype)}

    def signature(self, form: str | None = None) -> dict[str, tf.TensorSpec]:
        """Returns the inputs of an export: float32 `[B, H, W, C]`."""
        return {self.batch_key: tf.TensorSpec([None, *self.shape], tf.float32, self.batch_key)}
