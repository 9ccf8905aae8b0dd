"""Penalties on the code of an autoencoder, added to the reconstruction error.

    L1             weight |h|_1
    TargetRate     weight sum_j KL(Bernoulli(rate) || Bernoulli(mean over the global batch of h_j))
    Contractive    weight |dh/dx|_F^2

with the code h = encoder(x). The squared norm of the Jacobian is exact, at the cost of one backward
pass per code value, or estimated with `num_probes` Rademacher vectors v by |dh/dx|_F^2 =
E |v^T dh/dx|^2 (Hutchinson).

A penalty is a function of `encode`, `x` and a seed (an int32 pair) that returns the code and the
penalty `[B]`.

References:
  Ng (2011), https://web.stanford.edu/class/cs294a/sparseAutoencoder.pdf (target rate).
  Rifai et al. (2011), https://icml.cc/2011/papers/455_icmlpaper.pdf, eq. 7 (contractive).
  Hutchinson (1990), https://doi.org/10.1080/03610919008812866.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from kgen.checks import check_count, check_interval, check_positive
from kgen.serialization import serializable
from kgen.tensors import batch_mean, fold_in, sum_event, uniform


@serializable
@dataclasses.dataclass(frozen=True)
class L1:
    """The L1 norm of the code, for sparse codes."""

    weight: float
    name = "l1"

    def __post_init__(self) -> None:
        """Checks the weight."""
        check_positive("weight", self.weight, zero=True)

    def __call__(
        self, encode: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the code and the penalty `[B]`."""
        code = encode(x)
        return code, self.weight * sum_event(tf.abs(code))


@serializable
@dataclasses.dataclass(frozen=True)
class TargetRate:
    """The KL from a target rate to the mean activation of each unit, for codes in (0, 1)."""

    rate: float
    weight: float
    name = "target_rate"

    def __post_init__(self) -> None:
        """Checks the rate and the weight."""
        check_interval("rate", self.rate, "(0, 1)")
        check_positive("weight", self.weight, zero=True)

    def __call__(
        self, encode: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the code and the penalty `[B]`, which is the same for all examples of a batch."""
        code, rate = encode(x), self.rate
        mean = tf.clip_by_value(batch_mean(code), 1e-6, 1 - 1e-6)
        kl = rate * tf.math.log(rate / mean) + (1 - rate) * tf.math.log((1 - rate) / (1 - mean))
        return code, tf.fill([tf.shape(x)[0]], self.weight * tf.reduce_sum(kl))


@serializable
@dataclasses.dataclass(frozen=True)
class Contractive:
    """The squared Frobenius norm of the Jacobian of the encoder.

    Args:
        weight: factor of the penalty.
        num_probes: number of random vectors with which the norm is estimated, or None for the exact
            norm.
    """

    weight: float
    num_probes: int | None = None
    name = "contractive"

    def __post_init__(self) -> None:
        """Checks the weight and the number of probes."""
        check_positive("weight", self.weight, zero=True)
        if self.num_probes is not None:
            check_count("num_probes", self.num_probes)

    def __call__(
        self, encode: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the code and the penalty `[B]`."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            code = encode(x)
            flat = tf.reshape(code, [tf.shape(x)[0], -1])
            if self.num_probes is None:
                # A code depends on its own example only, so the sum over the batch does not mix.
                outputs = [tf.reduce_sum(flat[:, i]) for i in range(code[0].shape.num_elements())]
            else:
                outputs = []
                for i in range(self.num_probes):
                    sign = tf.sign(uniform(tf.shape(flat), fold_in(seed, i)) - 0.5)
                    outputs.append(tf.reduce_sum(sign * flat))
        squares = [sum_event(tape.gradient(output, x) ** 2) for output in outputs]
        norm = tf.add_n(squares) / (1 if self.num_probes is None else self.num_probes)
        return code, self.weight * norm
