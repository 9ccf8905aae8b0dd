"""Embeddings of a scalar: what a network is told about the noise.

A scalar `u` becomes the vector `[cos(w_0 u) .. cos(w_{n-1} u), sin(w_0 u) .. sin(w_{n-1} u)]` with
the geometric frequencies `w_i = 10000^(-i / n)`. Networks of kgen are told the log-SNR, which is
the same quantity for every schedule; `noise_position` spreads its range over the 0..999 that the
frequencies of Stable Diffusion were chosen for.

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


@serializable
class SinusoidalEmbedding(keras.layers.Layer):
    """`[B]` -> `[B, dim]`, cosines first, always in float32.

    Args:
        dim: an even number of features.
    """

    def __init__(self, dim, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if dim % 2:
            raise ValueError(f"`dim` must be even. Received: dim={dim}.")
        self.dim = dim

    def call(self, position):
        """Embeds `position`."""
        half = self.dim // 2
        frequencies = ops.exp(-math.log(10000.0) * ops.arange(half, dtype="float32") / half)
        angles = ops.expand_dims(position, -1) * frequencies
        return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)

    def compute_output_shape(self, position_shape):
        """`[B]` -> `[B, dim]`."""
        return (*position_shape, self.dim)
