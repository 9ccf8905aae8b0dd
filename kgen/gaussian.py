"""The diagonal Gaussian distribution, from which all models of the library are built.

    log N(x; mean, std^2) = -1/2 sum_i [ log(2 pi) + 2 log std_i + (x_i - mean_i)^2 / std_i^2 ]

    KL(q || p) = 1/2 sum_i [ std_q^2 / std_p^2 - 1 - 2 (log std_q - log std_p)
                             + (mean_q - mean_p)^2 / std_p^2 ]

Shapes: `mean` is `[B, ...]`, `log_std` broadcasts to it; densities and divergences are sums over
the event and have shape `[B]`, in nats.

References:
  Kingma and Welling (2013), https://arxiv.org/abs/1312.6114, appendix B (KL to N(0, I)).
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 86 (the KL of two Gaussians).
"""

import dataclasses
import math
from typing import Self

import tensorflow as tf

from kgen.tensors import normal, sum_event
from kgen.types import TensorLike

LOG_STD_BOUND = 10.0


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian with mean `mean` and standard deviation `exp(log_std)`.

    Args:
        mean: `[B, ...]`.
        log_std: log standard deviation, broadcastable to `mean`.

    Example:
        >>> q = Gaussian(tf.zeros([2, 3]), tf.zeros([2, 3]))
        >>> q.kl(standard_normal(q.mean)).numpy().tolist()
        [0.0, 0.0]
    """

    mean: tf.Tensor
    log_std: tf.Tensor

    @classmethod
    def from_moments(cls, moments: TensorLike) -> Self:
        """Makes a Gaussian of the output of an encoder, its mean and log standard deviation.

        A log standard deviation in [-10, 10] is used as it is. Values outside are compressed
        smoothly into (-11, 11), so that data of a large scale do not overflow in the first
        training step.

        Args:
            moments: `[B, ..., 2 C]`, the mean and the log standard deviation on the last axis.

        Returns:
            A float32 `Gaussian` of shape `[B, ..., C]`.
        """
        mean, log_std = tf.split(tf.cast(moments, tf.float32), 2, axis=-1)
        beyond = tf.nn.relu(tf.abs(log_std) - LOG_STD_BOUND)
        bounded = tf.sign(log_std) * (LOG_STD_BOUND + 1 - 1 / (1 + beyond))
        return cls(mean, tf.where(beyond > 0, bounded, log_std))

    @property
    def std(self) -> tf.Tensor:
        """The standard deviation, `exp(log_std)`."""
        return tf.exp(self.log_std)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws `mean + std * eps` (the reparameterisation trick); `seed` is an int32 pair."""
        return self.mean + self.std * normal(tf.shape(self.mean), seed, self.mean.dtype)

    def log_prob(self, x: TensorLike) -> tf.Tensor:
        """Returns the log density at `x`, `[B]`, in nats."""
        return sum_event(self.log_densities(x))

    def log_densities(self, x: TensorLike) -> tf.Tensor:
        """Returns the log density of each value of `x`, of the shape of `x`."""
        standardised = (x - self.mean) * tf.exp(-self.log_std)
        return -0.5 * (math.log(2 * math.pi) + 2 * self.log_std + standardised**2)

    def kl(self, p: "Gaussian") -> tf.Tensor:
        """Returns KL(self || p) for another Gaussian `p`, `[B]`, in nats."""
        log_ratio = self.log_std - p.log_std
        distance = (self.mean - p.mean) * tf.exp(-p.log_std)
        return 0.5 * sum_event(tf.math.expm1(2 * log_ratio) + distance**2 - 2 * log_ratio)


def standard_normal(like: tf.Tensor) -> Gaussian:
    """Returns N(0, I) with the shape and dtype of the tensor `like`."""
    return Gaussian(tf.zeros_like(like), tf.zeros_like(like))
