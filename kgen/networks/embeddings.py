"""Embeddings of a scalar: what a network is given of the noise.

A scalar `u` becomes the vector `[cos(w_0 u) .. cos(w_{n-1} u), sin(w_0 u) .. sin(w_{n-1} u)]` with
the geometric frequencies `w_i = 10000^(-i / n)`. Networks of kgen are given the log-SNR, which is
the same quantity for every schedule; `noise_position` spreads its range over the 0..999 that the
frequencies of Stable Diffusion were chosen for. Published networks are given the index of a level
of their own schedule instead: any function from log-SNR to a position may take the place of
`noise_position`.

References:
  Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, section 3.5.
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, appendix B.
"""

import math

import keras
from keras import ops

from kgen.serialization import serializable


def noise_position(log_snr):
    """Maps log-SNR to a position between 0 (clean) and 1000 (noise), smooth and monotone.

    Example:
        >>> float(noise_position(ops.convert_to_tensor(0.0)))
        500.0
    """
    return 1000.0 * ops.sigmoid(-ops.cast(log_snr, "float32") / 4.0)


class NoisePosition(keras.layers.Layer):
    """Calls a function from log-SNR `[B]` to a position `[B]`, in float32.

    Args:
        function: in operations of Keras or TensorFlow.
        **kwargs: `name` of a Keras layer.
    """

    def __init__(self, function, **kwargs) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not callable(function):
            raise TypeError(
                "`noise_position` must be None or a function from log-SNR to a position. "
                f"Received: noise_position={function!r}."
            )
        self.function = function

    def call(self, log_snr):
        """The position of `log_snr`."""
        return ops.cast(self.function(log_snr), "float32")

    def compute_output_shape(self, log_snr_shape):
        """`[B]` -> `[B]`."""
        return log_snr_shape


@serializable
class SinusoidalEmbedding(keras.layers.Layer):
    """`[B]` -> `[B, dim]`, cosines first, always in float32.

    Args:
        dim: an even number of features.
        sin_first: whether the sines come first.
        freq_shift: what the divisor `n` in the exponent of the frequencies is less than half of
            `dim`; 1 in the published code of DDPM, whose last frequency is so 1 / 10000.
        **kwargs: `name` of a Keras layer.

    Raises:
        ValueError: if `dim` is odd, or `freq_shift` not less than half of it.

    Example:
        >>> SinusoidalEmbedding(4)(ops.zeros((1,))).numpy().tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """

    def __init__(
        self, dim: int, *, sin_first: bool = False, freq_shift: float = 0.0, **kwargs
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

    def call(self, position):
        """Embeds `position`."""
        half = self.dim // 2
        steps = -math.log(10000.0) * ops.arange(half, dtype="float32")
        angles = ops.expand_dims(position, -1) * ops.exp(steps / (half - self.freq_shift))
        waves = [ops.cos(angles), ops.sin(angles)]
        return ops.concatenate(waves[::-1] if self.sin_first else waves, axis=-1)

    def compute_output_shape(self, position_shape):
        """`[B]` -> `[B, dim]`."""
        return (*position_shape, self.dim)
