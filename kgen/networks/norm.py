"""Group normalisation, fused with a shift before it and a SiLU after it.

    y = silu( gamma (x + shift - mean) / sqrt(variance + epsilon) + beta )

The mean and the variance are those of a group of channels over all pixels. They are computed from
the sums of `x` and of its square over the pixels of each channel, after which the normalisation is
one affine map of the picture:

    y = silu( scale x + offset )        scale, offset: [B, C], computed by `_affine`

As separate operations they take half the time of the convolution between two normalisations on a
CPU. In the context `kgen.distribution.fused` they are replaced by two functions that XLA compiles
(`kgen.networks.passes`), one for the sums and one for the rest, and two more for the gradient,
through which TensorFlow cannot differentiate in forward mode.

Reference:
  Wu and He (2018), https://arxiv.org/abs/1803.08494.
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import layers, ops

from kgen.checks import check_one_of
from kgen.networks.passes import compiled, pays
from kgen.serialization import serializable
from kgen.types import Shape


@serializable
class GroupNorm(layers.Layer):
    """Group normalisation, optionally followed by a SiLU, with float32 statistics.

    It computes the same as `keras.layers.GroupNormalization`, and is faster on CPUs.

    Args:
        groups: number of groups; must divide the channels.
        epsilon: added to the variance.
        activation: None or `"silu"`.
        **kwargs: `name` and `dtype` of a Keras layer.

    Call arguments:
        x: `[B, ..., C]`.
        shift: None or `[B, C]`, added to every pixel of `x` first.

    Raises:
        ValueError: if `groups` does not divide the channels.
    """

    def __init__(
        self, groups: int = 32, epsilon: float = 1e-5, activation: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if activation is not None:
            check_one_of("activation", activation, ("silu",))
        self.groups = groups
        self.epsilon = epsilon
        self.activation = activation

    def build(self, x_shape: Shape, shift_shape: Shape | None = None) -> None:
        """Creates the scale and the offset of the channels."""
        channels = x_shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"`groups` must divide the channels. "
                f"Received: groups={self.groups}, channels={channels}."
            )
        options = {"shape": (channels,), "autocast": False}
        self.gamma = self.add_weight(initializer="ones", name="gamma", **options)
        self.beta = self.add_weight(initializer="zeros", name="beta", **options)

    def call(self, x: tf.Tensor, shift: tf.Tensor | None = None) -> tf.Tensor:
        """Shifts, normalises and activates `x`."""
        weights = [ops.cast(v, "float32") for v in (self.gamma, self.beta)]
        if shift is not None:
            shift = ops.cast(shift, "float32")
        if self.activation and len(x.shape) in (4, 5) and pays(x):
            if len(x.shape) == 4:
                return _fused_norm_silu(x, *weights, shift, self._affine)
            pictures = ops.reshape(x, (-1, math.prod(x.shape[1:-2]), *x.shape[-2:]))
            y = _fused_norm_silu(pictures, *weights, shift, self._affine)
            return ops.reshape(y, (-1, *x.shape[1:]))
        axes = tuple(range(1, len(x.shape) - 1))
        wide = ops.cast(x, "float32")
        moments = [ops.mean(wide, axes), ops.mean(ops.square(wide), axes)]
        scale, offset = (
            ops.cast(_spread(a, x), x.dtype) for a in self._affine(*moments, *weights, shift)
        )
        y = x * scale + offset
        return ops.silu(y) if self.activation else y

    def compute_output_shape(self, x_shape: Shape, shift_shape: Shape | None = None) -> Shape:
        """Returns the shape of `x`."""
        return x_shape

    def _affine(
        self,
        mean: tf.Tensor,
        square: tf.Tensor,
        gamma: tf.Tensor,
        beta: tf.Tensor,
        shift: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scale and offset, `[B, C]`, from the means of x and x^2 over the pixels."""
        if shift is not None:
            square = square + shift * (2 * mean + shift)
            mean = mean + shift
        size = mean.shape[-1] // self.groups
        mean, square = (self._of_groups(m, size) for m in (mean, square))
        variance = ops.maximum(square - ops.square(mean), 0.0)
        scale = gamma * ops.rsqrt(variance + self.epsilon)
        offset = beta - mean * scale
        return scale, offset if shift is None else offset + shift * scale

    def _of_groups(self, m: tf.Tensor, size: int) -> tf.Tensor:
        """Returns the mean over each group of `size` channels, repeated per channel, `[B, C]`."""
        means = ops.mean(ops.reshape(m, (-1, self.groups, size)), axis=-1, keepdims=True)
        return ops.reshape(means * ops.ones((size,), means.dtype), (-1, self.groups * size))


def _spread(a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Reshapes `a`, `[B, C]`, to broadcast against `x`, `[B, ..., C]`."""
    return ops.reshape(a, (-1,) + (1,) * (len(x.shape) - 2) + (a.shape[-1],))


def _fused_norm_silu(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    shift: tf.Tensor | None,
    affine: Callable[..., tuple[tf.Tensor, tf.Tensor]],
) -> tf.Tensor:
    """Computes a `GroupNorm` with a SiLU of `[B, H, W, C]`, and its gradient, in few passes.

    A pass sums over one axis, which XLA vectorises; TensorFlow sums over the other axis.
    """
    pixels = x.shape[1] * x.shape[2]
    extra = [] if shift is None else [shift]

    @tf.custom_gradient
    def norm_silu(x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        moments = [tf.reduce_sum(rows, 1) / pixels for rows in compiled(_sums)(x)]
        scale, offset = affine(*moments, *weights)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            g, *rows = compiled(_silu_gradient)(upstream, x, scale, offset)
            sums = [tf.reduce_sum(r, 1) for r in rows]
            with tf.GradientTape() as tape:
                tape.watch([*moments, *weights])
                small = affine(*moments, *weights)
            by_mean, by_square, *others = tape.gradient(small, [*moments, *weights], sums)
            constant, slope = by_mean / pixels, 2 * by_square / pixels
            return compiled(_norm_gradient)(g, x, scale, constant, slope), *others

        return compiled(_affine_silu)(x, scale, offset), gradient

    return norm_silu(x, gamma, beta, *extra)


def _sums(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x = tf.cast(x, tf.float32)
    return tf.reduce_sum(x, 1), tf.reduce_sum(x * x, 1)


def _affine_silu(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    y = tf.cast(x, tf.float32) * _spread(scale, x) + _spread(offset, x)
    return tf.cast(y * tf.sigmoid(y), x.dtype)


def _silu_gradient(
    upstream: tf.Tensor, x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the gradient g with respect to scale x + offset, and the sums of g x and of g."""
    x, upstream = tf.cast(x, tf.float32), tf.cast(upstream, tf.float32)
    y = x * _spread(scale, x) + _spread(offset, x)
    gate = tf.sigmoid(y)
    g = upstream * gate * (1 + y * (1 - gate))
    return g, tf.reduce_sum(g * x, 1), tf.reduce_sum(g, 1)


def _norm_gradient(
    g: tf.Tensor, x: tf.Tensor, scale: tf.Tensor, constant: tf.Tensor, slope: tf.Tensor
) -> tf.Tensor:
    """Returns the gradient with respect to x, by the affine map and by the two means."""
    through = tf.cast(x, tf.float32) * _spread(slope, x) + _spread(constant, x)
    return tf.cast(g * _spread(scale, g) + through, x.dtype)
