"""Sinusoidal embeddings of the noise level.

A scalar `u` is embedded as `[cos(w_0 u) .. cos(w_{n-1} u), sin(w_0 u) .. sin(w_{n-1} u)]` with the
geometric frequencies `w_i = 10000^(-i / n)`. The input of the networks of kgen is the log-SNR,
which has the same meaning for every schedule; `noise_position` maps it to the range 0 to 1000, for
which the frequencies of Stable Diffusion were chosen. The input of published networks is the index
of a noise level of their schedule: any function from log-SNR to a position can replace
`noise_position`.

References:
  Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, section 3.5.
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, appendix B.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kgen.serialization import serializable
from kgen.types import Shape


def noise_position(log_snr: tf.Tensor) -> tf.Tensor:
    """Maps log-SNR smoothly to a position between 0 (data) and 1000 (noise).

    Example:
        >>> float(noise_position(ops.convert_to_tensor(0.0)))
        500.0
    """
    return 1000.0 * ops.sigmoid(-ops.cast(log_snr, "float32") / 4.0)


class NoisePosition(keras.layers.Layer):
    """A layer that applies a function from log-SNR `[B]` to a position `[B]`, in float32.

    Args:
        function: a function of tensors, in operations of Keras or TensorFlow.
        **kwargs: `name` of a Keras layer.

    Raises:
        TypeError: if `function` is not callable.
    """

    def __init__(self, function: Callable, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not callable(function):
            raise TypeError(
                "`noise_position` must be None or a function from log-SNR to a position. "
                f"Received: noise_position={function!r}."
            )
        self.function = function

    def call(self, log_snr: tf.Tensor) -> tf.Tensor:
        """Returns the position of `log_snr`."""
        return ops.cast(self.function(log_snr), "float32")

    def compute_output_shape(self, log_snr_shape: Shape) -> Shape:
        """Returns the shape of `log_snr`."""
        return log_snr_shape


@serializable
class SinusoidalEmbedding(keras.layers.Layer):
    """A sinusoidal embedding of scalars, `[B]` to `[B, dim]`, in float32.

    Args:
        dim: number of features, even.
        sin_first: whether the sines precede the cosines.
        freq_shift: subtracted from the divisor n = dim / 2 in the exponent of the frequencies; 1 in
            the published code of DDPM, so that the last frequency is 1 / 10000.
        **kwargs: `name` of a Keras layer.

    Raises:
        ValueError: if `dim` is odd, or `freq_shift` is not less than half of it.

    Example:
        >>> SinusoidalEmbedding(4)(ops.zeros((1,))).numpy().tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """

    def __init__(
        self, dim: int, *, sin_first: bool = False, freq_shift: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        if dim % 2:
            raise ValueError(f"`dim` must be even. Received: dim={dim}.")
        if not freq_shift < dim // 2:
            raise ValueError(
                f"`freq_shift` must be less than half of `dim`. "
                f"Received: freq_shift={freq_shift}, dim={dim}."
            )
        self.dim = dim
        self.sin_first = sin_first
        self.freq_shift = freq_shift

    def call(self, position: tf.Tensor) -> tf.Tensor:
        """Embeds `position`."""
        half = self.dim // 2
        steps = -math.log(10000.0) * ops.arange(half, dtype="float32")
        angles = ops.expand_dims(position, -1) * ops.exp(steps / (half - self.freq_shift))
        waves = [ops.cos(angles), ops.sin(angles)]
        return ops.concatenate(waves[::-1] if self.sin_first else waves, axis=-1)

    def compute_output_shape(self, position_shape: Shape) -> Shape:
        """Returns the shape `[B, dim]`."""
        return (*position_shape, self.dim)
