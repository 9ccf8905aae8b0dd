"""Nearest-neighbour upsampling followed by a convolution, computed as one transposed convolution.

In a 3 x 3 convolution of a picture whose pixels were doubled, two rows of the kernel may meet the
same pixel of the small picture. With the rows a, b, c of the kernel, the rows of the output are

    even row 2 i:      a x[i - 1] + (b + c) x[i]
    odd row 2 i + 1:   (a + b) x[i] + c x[i + 1]

and likewise for columns. That is a transposed convolution of stride 2 with a 4 x 4 kernel, the
flipped convolution of the 3 x 3 kernel with a 2 x 2 square of ones. It takes 4 products per output
value instead of 9, without the doubled picture in memory. The weights are those of the 3 x 3
convolution. With one spatial axis it takes 2 products instead of 3, with three 8 instead of 27.

Reference:
  Odena et al. (2016), https://doi.org/10.23915/distill.00003 (why nearest neighbour comes first).
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers, ops

from kgen.serialization import serializable
from kgen.types import Shape

# From the rows a, b, c of the kernel to those of the transposed convolution: c, b + c, a + b, a.
SUMS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


@serializable
class UpsampleConv(layers.Layer):
    """Nearest-neighbour doubling and a "same" 3 x 3 convolution in one layer.

    The input has one, two or three spatial axes.

    Args:
        channels: number of channels of the output.
        **kwargs: `name` and `dtype` of a Keras layer.

    Call arguments:
        x: `[B, h, w, C]`.
        like: None, or `[B, H, W, D]` whose size is twice that of `x` or one less: the doubled `x`
            is cropped to it before the convolution.

    Example:
        >>> UpsampleConv(5)(ops.zeros((2, 4, 4, 3))).shape
        TensorShape([2, 8, 8, 5])
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, x_shape: Shape, like_shape: Shape | None = None) -> None:
        """Creates the kernel and the bias of the convolution, `[3, 3, C, channels]`."""
        shape = (*[3] * (len(x_shape) - 2), x_shape[-1], self.channels)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=shape[-1:], initializer="zeros", name="bias")

    def call(self, x: tf.Tensor, like: tf.Tensor | None = None) -> tf.Tensor:
        """Doubles and convolves `x`."""
        if like is None:
            return self._doubled(x)
        sizes, doubled = ops.shape(like)[1:-1], [2 * size for size in ops.shape(x)[1:-1]]
        if all(isinstance(size, int) for size in (*sizes, *doubled)):
            return self._doubled(x) if list(sizes) == doubled else self._cropped(x, sizes)
        even = tf.reduce_all([tf.equal(n, m) for n, m in zip(sizes, doubled)])
        return tf.cond(even, lambda: self._doubled(x), lambda: self._cropped(x, sizes))

    def _doubled(self, x: tf.Tensor) -> tf.Tensor:
        """Applies the transposed convolution."""
        rank, kernel = len(x.shape) - 2, ops.convert_to_tensor(self.kernel)
        sums = functools.reduce(np.kron, [SUMS] * rank)  # one matrix for all axes
        wide = ops.matmul(ops.cast(sums, kernel.dtype), ops.reshape(kernel, (3**rank, -1)))
        kernel = ops.reshape(wide, (*[4] * rank, *kernel.shape[rank:]))
        kernel = ops.transpose(kernel, (*range(rank), rank + 1, rank))
        return ops.conv_transpose(x, kernel, strides=2, padding="same") + self.bias

    def _cropped(self, x: tf.Tensor, sizes: Sequence[int | tf.Tensor]) -> tf.Tensor:
        """Doubles, crops and convolves one after the other, with the doubled `x` in memory."""
        for axis in range(1, len(x.shape) - 1):
            x = ops.repeat(x, 2, axis)
        x = x[(slice(None), *(slice(size) for size in sizes))]
        return ops.conv(x, self.kernel, padding="same") + self.bias

    def compute_output_shape(self, x_shape: Shape, like_shape: Shape | None = None) -> Shape:
        """Returns the shape with the size of `like`, or with every size doubled."""
        batch, *sizes, _ = x_shape
        sizes = like_shape[1:-1] if like_shape else [size and 2 * size for size in sizes]
        return (batch, *sizes, self.channels)
