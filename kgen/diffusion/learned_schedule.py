"""A learned noise schedule: a monotone network with fixed ends.

    g(t) = a t + sum_k b_k sigmoid(c_k t + d_k),        a, b_k, c_k > 0
    l(t) = l_max + (l_min - l_max) (g(t) - g(0)) / (g(1) - g(0))

g is increasing, so l is strictly decreasing, and it takes the values l_max and l_min exactly for
all weights. Initially all b_k are small and the schedule is nearly linear.

In continuous time the bound does not depend on the schedule between the ends, only the variance of
its estimate does. The schedule is trained to reduce that variance:

    minimise over the schedule    E[ L(t)^2 ],    L(t) one example's term at one draw of t

whose gradient is E[2 L dL/d(schedule)] (`kgen.diffusion.bound.learned_schedule_terms`). At the
minimum the mean square of the term is the same for every t.

Reference:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, appendix H and I.2.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from kgen.checks import check_count
from kgen.diffusion.schedule import NoiseSchedule, as_real, check_range
from kgen.serialization import serializable
from kgen.types import TensorLike

_BISECTIONS = {tf.float32: 30, tf.float64: 60}


@serializable
class LearnedLogSNR(keras.layers.Layer, NoiseSchedule):
    """A learned noise schedule: a monotone network from time to log-SNR with fixed ends.

    Args:
        log_snr_max: log-SNR at t = 0.
        log_snr_min: log-SNR at t = 1.
        width: number of sigmoids.
        **kwargs: `name` of a Keras layer.

    Raises:
        ValueError: if `width` is less than 1, or unless the ends are finite and ordered.

    Example:
        >>> LearnedLogSNR(9.0, -9.0).log_snr(tf.constant([0.0, 1.0])).numpy().tolist()
        [9.0, -9.0]
    """

    def __init__(
        self, log_snr_max: float = 13.3, log_snr_min: float = -10.0, width: int = 32, **kwargs: Any
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_range(log_snr_max, log_snr_min)
        check_count("width", width)
        self.log_snr_max = log_snr_max
        self.log_snr_min = log_snr_min
        self.width = width
        # Positive coefficients are the softplus of weights; the sigmoids start spread over [0, 1].
        steepness = 2.0 * max(1.0, math.sqrt(width))
        centres = [(k + 0.5) / width for k in range(width)]
        self.raw_linear = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(1.0), name="linear"
        )
        self.raw_heights = self.add_weight(
            shape=(width,), initializer=keras.initializers.Constant(-5.0), name="heights"
        )
        self.raw_steepness = self.add_weight(
            shape=(width,), initializer=keras.initializers.Constant(steepness), name="steepness"
        )
        self.offsets = self.add_weight(shape=(width,), initializer="zeros", name="offsets")
        self.offsets.assign([-steepness * centre for centre in centres])
        self.built = True

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns the log-SNR at `t`, of the shape of `t`."""
        t = as_real(t)
        start, end = self._curve(tf.zeros([], t.dtype)), self._curve(tf.ones([], t.dtype))
        # A weighted mean of the ends is exact at both.
        share = (self._curve(t) - start) / (end - start)
        return (1 - share) * self.log_snr_max + share * self.log_snr_min

    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`, by bisection."""
        log_snr = as_real(log_snr)
        low, high = tf.zeros_like(log_snr), tf.ones_like(log_snr)
        for _ in range(_BISECTIONS[log_snr.dtype]):
            middle = (low + high) / 2
            early = self.log_snr(middle) > log_snr
            low, high = tf.where(early, middle, low), tf.where(early, high, middle)
        return (low + high) / 2

    def _curve(self, t: tf.Tensor) -> tf.Tensor:
        """Returns the increasing function g at `t`, of the shape and dtype of `t`."""
        linear, heights, steepness, offsets = (
            tf.cast(v, t.dtype)
            for v in (
                tf.nn.softplus(self.raw_linear),
                tf.nn.softplus(self.raw_heights),
                tf.nn.softplus(self.raw_steepness),
                self.offsets,
            )
        )
        steps = tf.sigmoid(steepness * t[..., None] + offsets)
        return linear * t + tf.reduce_sum(heights * steps, axis=-1)
