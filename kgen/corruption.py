"""Corruptions of the input of a denoising autoencoder, which learns to restore the clean input.

    GaussianNoise     x + std eps
    Masking           x_i = 0 with probability `rate`
    SaltAndPepper     x_i = low or high, each with probability `rate / 2`

A corruption is a function of `x`, `[B, ...]`, and a seed, an int32 pair.

Reference:
  Vincent et al. (2010), https://www.jmlr.org/papers/v11/vincent10a.html, section 3.3.
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_interval, check_number, check_positive
from kgen.serialization import serializable
from kgen.tensors import normal, uniform


@serializable
@dataclasses.dataclass(frozen=True)
class GaussianNoise:
    """Adds Gaussian noise of standard deviation `std`."""

    std: float

    def __post_init__(self) -> None:
        """Checks the standard deviation."""
        check_positive("std", self.std)

    def __call__(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the corrupted `x`, `[B, ...]`."""
        return x + self.std * normal(tf.shape(x), seed)


@serializable
@dataclasses.dataclass(frozen=True)
class Masking:
    """Sets values to zero with probability `rate`."""

    rate: float

    def __post_init__(self) -> None:
        """Checks the rate."""
        check_interval("rate", self.rate, "(0, 1]")

    def __call__(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the corrupted `x`, `[B, ...]`."""
        return tf.where(uniform(tf.shape(x), seed) < self.rate, 0.0, x)


@serializable
@dataclasses.dataclass(frozen=True)
class SaltAndPepper:
    """Sets values to `low` or `high`, each with probability `rate / 2`."""

    rate: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Checks the rate and the values."""
        check_interval("rate", self.rate, "(0, 1]")
        check_number("low", self.low)
        check_number("high", self.high)

    def __call__(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the corrupted `x`, `[B, ...]`."""
        u = uniform(tf.shape(x), seed)
        x = tf.where(u < self.rate / 2, self.low, x)
        return tf.where(u > 1 - self.rate / 2, self.high, x)
