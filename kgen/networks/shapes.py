"""Layers that change the spatial shape of data with one, two or three spatial axes.

    Fold, Unfold      blocks of pixels into channels, `[B, H/p, W/p, p^2 C]`, and back
    Pad, Crop         to a multiple of a size, and back
    tokens, Pixels    the pixels as a sequence, `[B, H W, C]`, and back

The layers have no weights and infer the sizes from their inputs, so that one graph serves every
size. If the sizes are known when a graph is traced, so are those of all outputs.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from kgen.checks import check_count
from kgen.serialization import serializable
from kgen.types import Shape


def reshape(x: tf.Tensor, shape: Sequence[int | tf.Tensor]) -> tf.Tensor:
    """Reshapes to sizes of which some may be scalar tensors, and keeps the static ones.

    Example:
        >>> reshape(ops.zeros((2, 6)), (tf.constant(2), 3, 2)).shape
        TensorShape([2, 3, 2])
    """
    shape = list(shape)
    unknown = [i for i, size in enumerate(shape) if not isinstance(size, int)]
    if len(unknown) == 1:
        shape[unknown[0]] = -1
    return ops.reshape(x, shape)


@serializable
class Fold(layers.Layer):
    """Moves blocks of pixels into channels (space to depth): to `[B, H/p, W/p, p^2 C]`.

    Args:
        patch: side p of a block; must divide every size.
        **kwargs: `name` and `dtype` of a Keras layer.

    Example:
        >>> Fold(2)(ops.zeros((1, 4, 6, 3))).shape
        TensorShape([1, 2, 3, 12])
    """

    def __init__(self, patch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("patch", patch)
        self.patch = patch

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Folds `x`."""
        batch, *sizes, channels = ops.shape(x)
        rank, p = len(sizes), self.patch
        parts = [part for size in sizes for part in (size // p, p)]
        x = reshape(x, (batch, *parts, channels))
        inside, outside = range(2, 2 * rank + 1, 2), range(1, 2 * rank, 2)
        x = ops.transpose(x, (0, *outside, *inside, 2 * rank + 1))
        return reshape(x, (batch, *(size // p for size in sizes), p**rank * channels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the shape with every size divided by `patch`."""
        batch, *sizes, channels = input_shape
        sizes = (size and size // self.patch for size in sizes)
        return (batch, *sizes, self.patch ** (len(input_shape) - 2) * channels)


@serializable
class Unfold(layers.Layer):
    """Moves blocks of pixels out of channels (depth to space), the inverse of `Fold`.

    Args:
        patch: side p of a block.
        **kwargs: `name` and `dtype` of a Keras layer.

    Example:
        >>> Unfold(2)(ops.zeros((1, 2, 3, 12))).shape
        TensorShape([1, 4, 6, 3])
    """

    def __init__(self, patch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("patch", patch)
        self.patch = patch

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Unfolds `x`."""
        batch, *sizes, width = ops.shape(x)
        rank, p = len(sizes), self.patch
        x = reshape(x, (batch, *sizes, *[p] * rank, width // p**rank))
        pairs = [axis for i in range(1, rank + 1) for axis in (i, rank + i)]
        x = ops.transpose(x, (0, *pairs, 2 * rank + 1))
        return reshape(x, (batch, *(size * p for size in sizes), width // p**rank))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the shape with every size multiplied by `patch`."""
        batch, *sizes, width = input_shape
        sizes = (size and size * self.patch for size in sizes)
        return (batch, *sizes, width // self.patch ** (len(input_shape) - 2))


def fold(x: keras.KerasTensor, patch: int) -> keras.KerasTensor:
    """Applies `Fold` in float32, unless `patch` is 1."""
    return x if patch == 1 else Fold(patch, dtype="float32")(x)


def unfold(x: keras.KerasTensor, patch: int) -> keras.KerasTensor:
    """Applies `Unfold` in float32, unless `patch` is 1."""
    return x if patch == 1 else Unfold(patch, dtype="float32")(x)


@serializable
class Pad(layers.Layer):
    """Pads `[B, H, W, C]` with zeros, so that its sizes are multiples of a number.

    The zeros are added on both sides of an axis, an odd one after the last pixel.

    Args:
        multiple: the divisor of the new sizes, an integer, or one per spatial axis.
        **kwargs: `name` and `dtype` of a Keras layer.

    Example:
        >>> Pad(4)(ops.ones((1, 6, 8, 3))).shape
        TensorShape([1, 8, 8, 3])
    """

    def __init__(self, multiple: int | tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Pads `x`."""
        totals = [-size % m for size, m in self._pairs(ops.shape(x))]
        if all(isinstance(n, int) and n == 0 for n in totals):
            return x
        return tf.pad(x, [[0, 0], *([n // 2, n - n // 2] for n in totals), [0, 0]])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the shape with the padded sizes."""
        sizes = (size and size + -size % m for size, m in self._pairs(input_shape))
        return (input_shape[0], *sizes, input_shape[-1])

    def _pairs(self, shape: tuple) -> list[tuple]:
        sizes = shape[1:-1]
        each = isinstance(self.multiple, int)
        return list(zip(sizes, [self.multiple] * len(sizes) if each else self.multiple))


@serializable
class Crop(layers.Layer):
    """Crops `[B, H, W, C]` centrally to the size of another tensor, the inverse of `Pad`.

    Args:
        **kwargs: `name` and `dtype` of a Keras layer.

    Call arguments:
        x: `[B, H, W, C]`.
        like: `[B, h, w, c]`, with sizes that are not larger.

    Example:
        >>> Crop()(ops.ones((1, 8, 8, 3)), ops.ones((1, 5, 8, 1))).shape
        TensorShape([1, 5, 8, 3])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def call(self, x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """Crops `x` to the size of `like`."""
        return crop_to(x, ops.shape(like)[1:-1])

    def compute_output_shape(self, x_shape: Shape, like_shape: Shape) -> Shape:
        """Returns the shape with the size of `like` and the channels of `x`."""
        return (x_shape[0], *like_shape[1:-1], x_shape[-1])


@serializable
class CropTo(layers.Layer):
    """Crops `[B, H, W, C]` centrally to a given size.

    Args:
        size: the new size `(h, w)`, not larger.
        **kwargs: `name` and `dtype` of a Keras layer.

    Example:
        >>> CropTo((5, 8))(ops.ones((1, 8, 8, 3))).shape
        TensorShape([1, 5, 8, 3])
    """

    def __init__(self, size: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Crops `x`."""
        return crop_to(x, self.size)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the shape with the given size."""
        return (input_shape[0], *self.size, input_shape[-1])


def crop_to(x: tf.Tensor, sizes: Sequence[int | tf.Tensor]) -> tf.Tensor:
    """Crops `x`, `[B, H, W, C]`, centrally to sizes that are integers or scalar tensors.

    Example:
        >>> crop_to(ops.ones((1, 8, 8, 3)), (5, 8)).shape
        TensorShape([1, 5, 8, 3])
    """
    had = ops.shape(x)[1:-1]
    pairs = list(zip(had, sizes))
    if all(isinstance(n, int) and isinstance(m, int) and n == m for n, m in pairs):
        return x
    starts = [((n - m) // 2, m) for n, m in pairs]
    return x[(slice(None), *(slice(start, start + m) for start, m in starts))]


def tokens(x: keras.KerasTensor, **options: Any) -> keras.KerasTensor:
    """Reshapes the pixels of `[B, H, W, C]` to a sequence, `[B, H W, C]`.

    Example:
        >>> tokens(ops.zeros((1, 4, 6, 3))).shape
        TensorShape([1, 24, 3])
    """
    return layers.Reshape((-1, x.shape[-1]), **options)(x)


@serializable
class Pixels(layers.Layer):
    """Reshapes a sequence `[B, H W, C]` to pixels `[B, H, W, C]` of the size of another tensor.

    Args:
        **kwargs: `name` and `dtype` of a Keras layer.

    Call arguments:
        x: `[B, H W, C]`.
        like: `[B, H, W, c]`.

    Example:
        >>> Pixels()(ops.ones((1, 24, 3)), ops.ones((1, 4, 6, 1))).shape
        TensorShape([1, 4, 6, 3])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def call(self, x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """Reshapes `x`."""
        return reshape(x, (*ops.shape(like)[:-1], x.shape[-1]))

    def compute_output_shape(self, x_shape: Shape, like_shape: Shape) -> Shape:
        """Returns the shape with the size of `like` and the channels of `x`."""
        return (*like_shape[:-1], x_shape[-1])
