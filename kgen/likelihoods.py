"""Likelihoods p(x | z): the distribution of the data given the output of a decoder.

    Bernoulli           l = decoder(z)             log p = sum_i [ x_i l_i - softplus(l_i) ]
    GaussianLikelihood  (m, log s) = decoder(z)    log p = sum_i log N(x_i; m_i, s_i^2)
    LogisticMixture     a mixture of K logistic distributions per pixel, integrated over the bin of
                        each of the 256 grey levels:
                        p(x) = sum_k w_k prod_c [ F((x_c + h - m_kc) / s_kc)
                                                  - F((x_c - h - m_kc) / s_kc) ]
                        F = sigmoid, h = 1/255 half a bin; the first and the last bin are open

Data are `[B, ..., C]`, in [0, 1] for `Bernoulli` and in [-1, 1] for the others; a decoder's output
has `parameter_channels(C)` channels. Densities are sums over the event, `[B]`, in nats. With a mask
they are those of the known values alone, p(x_known | z): given z the values are independent (of a
mixture given its component), so the missing ones integrate to 1.

References:
  Kingma and Welling (2013), https://arxiv.org/abs/1312.6114, appendix C.
  Salimans et al. (2017), https://arxiv.org/abs/1701.05517, section 2.1 (discretised logistic
  mixture; the channels of a pixel share the weights and are independent within a component).
  Nazabal et al. (2018), https://arxiv.org/abs/1807.03653, eq. 3 (likelihoods of known values).
"""

import dataclasses
import math
from typing import TypeAlias

import tensorflow as tf

from kgen.checks import check_count, check_positive
from kgen.gaussian import Gaussian
from kgen.serialization import serializable
from kgen.tensors import split, sum_event, uniform
from kgen.types import LikelihoodName, Shape

BIN = 2 / 255
_MIN_LOG_STD = -7.0


@serializable
@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Independent Bernoulli variables, whose logits the decoder returns.

    A data value between 0 and 1 is interpreted as the probability of a 1, and the log likelihood is
    the expected one.

    Example:
        >>> Bernoulli().log_prob(tf.zeros([1, 2]), tf.constant([[0.0, 1.0]])).numpy().round(4)
        array([-1.3863], dtype=float32)
    """

    low, high, bin_width = 0.0, 1.0, None

    def parameter_channels(self, channels: int) -> int:
        """Returns the number of channels of a decoder's output for data of `channels` channels."""
        return channels

    def log_prob(
        self, parameters: tf.Tensor, x: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the log likelihood of `x`, `[B]`, in nats; `mask` is 1 for known values."""
        return -sum_event(_known(tf.nn.softplus(parameters) - x * parameters, mask))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the expected value of the data, `[B, ..., C]`."""
        return tf.sigmoid(parameters)

    def sample(self, parameters: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws data, `[B, ..., C]`; `seed` is an int32 pair."""
        probability = tf.sigmoid(parameters)
        drawn = uniform(tf.shape(probability), seed) < probability
        return tf.cast(drawn, tf.float32)


@serializable
@dataclasses.dataclass(frozen=True)
class GaussianLikelihood:
    """Independent normal variables with a fixed or a learned standard deviation.

    Args:
        std: the standard deviation, or None if the decoder returns mean and log standard deviation.

    Raises:
        TypeError: if `std` is not a number.
        ValueError: if `std` is not positive.
    """

    std: float | None = None

    low, high, bin_width = -1.0, 1.0, BIN

    def __post_init__(self) -> None:
        """Checks the standard deviation."""
        if self.std is not None:
            check_positive("std", self.std)

    def parameter_channels(self, channels: int) -> int:
        """Returns the number of channels of a decoder's output for data of `channels` channels."""
        return channels if self.std is not None else 2 * channels

    def distribution(self, parameters: tf.Tensor) -> Gaussian:
        """Returns the `Gaussian` p(x | z); a learned log standard deviation is at least -7."""
        if self.std is not None:
            return Gaussian(parameters, tf.constant(math.log(self.std), parameters.dtype))
        q = Gaussian.from_moments(parameters)
        return Gaussian(q.mean, _MIN_LOG_STD + tf.nn.softplus(q.log_std - _MIN_LOG_STD))

    def log_prob(
        self, parameters: tf.Tensor, x: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the log density of `x`, `[B]`, in nats; `mask` is 1 for known values."""
        p = self.distribution(parameters)
        p = Gaussian(p.mean, tf.zeros_like(p.mean) + p.log_std)
        return p.log_prob(x) if mask is None else sum_event(_known(p.log_densities(x), mask))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the expected value of the data, `[B, ..., C]`."""
        return self.distribution(parameters).mean

    def sample(self, parameters: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws data, `[B, ..., C]`; `seed` is an int32 pair."""
        return self.distribution(parameters).sample(seed)


@serializable
@dataclasses.dataclass(frozen=True)
class LogisticMixture:
    """A mixture of discretised logistic distributions, for 8-bit pixels.

    Args:
        components: number of logistic distributions per pixel.

    Raises:
        TypeError: if `components` is not a number.
        ValueError: if `components` is not an integer of at least 1.
    """

    components: int = 5

    low, high, bin_width = -1.0, 1.0, None

    def __post_init__(self) -> None:
        """Checks the number of components."""
        check_count("components", self.components)

    def parameter_channels(self, channels: int) -> int:
        """Returns the number of channels of a decoder's output for data of `channels` channels."""
        return self.components * (1 + 2 * channels)

    def split(self, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the log weights `[B, ..., K]`, and the means and log scales `[B, ..., K, C]`."""
        weights, means, log_scales = self._raw(parameters)
        return tf.nn.log_softmax(weights), means, _MIN_LOG_STD + tf.nn.softplus(log_scales + 4)

    def _raw(self, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        k = self.components
        channels = (parameters.shape[-1] // k - 1) // 2
        weights, means, log_scales = tf.split(parameters, [k, k * channels, k * channels], -1)
        shape = tf.concat([tf.shape(parameters)[:-1], [k, channels]], 0)
        return weights, tf.reshape(means, shape), tf.reshape(log_scales, shape)

    def log_prob(
        self, parameters: tf.Tensor, x: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the log probability of the grey levels `x`, `[B]`; `mask` is 1 for known ones."""
        log_weights, means, log_scales = self.split(parameters)
        x = x[..., None, :]
        inverse = tf.exp(-log_scales)
        upper, lower = (x + BIN / 2 - means) * inverse, (x - BIN / 2 - means) * inverse
        # log(F(u) - F(l)) = log F(u) + log F(-l) + log(1 - exp(l - u)), exact in both tails
        inside = tf.math.log_sigmoid(upper) + tf.math.log_sigmoid(-lower)
        inside += tf.math.log(-tf.math.expm1(-BIN * inverse))
        first, last = x < -1 + BIN / 2, x > 1 - BIN / 2
        log_p = tf.where(first, tf.math.log_sigmoid(upper), inside)
        log_p = tf.where(last, tf.math.log_sigmoid(-lower), log_p)
        log_p = _known(log_p, None if mask is None else mask[..., None, :])
        return sum_event(tf.reduce_logsumexp(log_weights + tf.reduce_sum(log_p, -1), axis=-1))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the expected value of the data, `[B, ..., C]`.

        The probability mass below -1 and above 1 belongs to the first and the last bin; before
        rounding to grey levels the mean is -1 + sum_k w_k integral from -1 to 1 of
        (1 - F_k(x)) dx.
        """
        log_weights, means, log_scales = self.split(parameters)
        scales = tf.exp(log_scales)
        above = tf.nn.softplus((means + 1) / scales) - tf.nn.softplus((means - 1) / scales)
        weights = tf.exp(log_weights)[..., None]
        return tf.clip_by_value(tf.reduce_sum(weights * scales * above, axis=-2) - 1, -1, 1)

    def sample(self, parameters: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws data on the 256 grey levels, `[B, ..., C]`; `seed` is an int32 pair."""
        log_weights, means, log_scales = self.split(parameters)
        choice, noise = split(seed, 2)
        u = uniform(tf.shape(log_weights), choice, 1e-6, 1 - 1e-6)
        k = tf.argmax(log_weights - tf.math.log(-tf.math.log(u)), axis=-1)
        means, log_scales = (tf.gather(a, k, batch_dims=k.shape.rank) for a in (means, log_scales))
        u = uniform(tf.shape(means), noise, 1e-6, 1 - 1e-6)
        x = means + tf.exp(log_scales) * (tf.math.log(u) - tf.math.log1p(-u))
        return tf.round((tf.clip_by_value(x, -1, 1) + 1) / BIN) * BIN - 1


def _known(values: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Returns the values where a mask is 1, and 0 elsewhere."""
    return values if mask is None else tf.where(tf.cast(mask, tf.bool), values, 0.0)


Likelihood: TypeAlias = Bernoulli | GaussianLikelihood | LogisticMixture

LIKELIHOODS = {
    "bernoulli": Bernoulli,
    "gaussian": GaussianLikelihood,
    "logistic_mixture": LogisticMixture,
}


def get(likelihood: LikelihoodName | Likelihood) -> Likelihood:
    """Returns a likelihood given by name or as an object.

    Args:
        likelihood: a key of `LIKELIHOODS`, for that likelihood with its default options, or an
            object of this module.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(likelihood, tuple(LIKELIHOODS.values())):
        return likelihood
    if not isinstance(likelihood, str) or likelihood not in LIKELIHOODS:
        raise ValueError(
            f"`likelihood` must be one of {sorted(LIKELIHOODS)} or an object of kgen.likelihoods. "
            f"Received: likelihood={likelihood!r}."
        )
    return LIKELIHOODS[likelihood]()


def to_uint8(likelihood: Likelihood, x: tf.Tensor) -> tf.Tensor:
    """Converts data from the range of a likelihood to uint8 pixels in 0..255."""
    unit = (x - likelihood.low) / (likelihood.high - likelihood.low)
    return tf.cast(tf.round(255 * tf.clip_by_value(unit, 0, 1)), tf.uint8)


def to_output(likelihood: Likelihood, x: tf.Tensor) -> tf.Tensor:
    """Converts samples to what a model returns: pictures to uint8, other data unchanged.

    Args:
        likelihood: the likelihood of the model.
        x: samples, `[B, ...]`; see `is_picture`.
    """
    return to_uint8(likelihood, x) if is_picture(x.shape[1:]) else x


def is_picture(shape: Shape) -> bool:
    """Returns whether examples of a shape are pictures: `[H, W, C]` with 1, 3 or 4 channels.

    Example:
        >>> is_picture((28, 28, 1)), is_picture((8, 8, 2)), is_picture((2,))
        (True, False, False)
    """
    return len(shape) == 3 and shape[-1] in (1, 3, 4)
