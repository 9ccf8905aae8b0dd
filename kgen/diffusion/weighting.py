"""Weightings: the weight of each noise level in the training loss.

    loss = 1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat|^2 / p(t) ],    t ~ p,    l = log_snr(t)

With w = 1 this is the denoising term of the evidence lower bound (the likelihood weighting of score
models). If w is a function of l alone, the loss does not depend on the schedule between its ends.

    elbo          w = 1
    sigmoid       w = sigmoid(bias - l)
    simple        w = 1 / (-dl/dt)                    the mean of |eps - eps_hat|^2
    min_snr       w = min(gamma / SNR, 1) / (-dl/dt)  the mean of min(SNR, gamma) |x - x_hat|^2
    snr_plus_one  w = (1 + 1 / SNR) / (-dl/dt)        the mean of |v - v_hat|^2 under VP
    flow          w = (1 + SNR^-1/2)^2 / (-dl/dt)     the mean of |u - u_hat|^2, u = eps - x
    edm           w = p(l) (1 + 1 / (d^2 SNR))        the mean of lambda(sigma) |x - x_hat|^2 over
                                                      log sigma ~ N(mean, std^2), sigma_data d,
                                                      which is 0.5
    edm_unit      the same with d = 1                 for data of unit variance, such as latents
    logit_normal  w = p(l) (1 + SNR^-1/2)^2           the mean of |u - u_hat|^2 over
                                                      logit t ~ N(mean, std^2)

In the last two, -l / 2 is normally distributed, with density p(l) = N(-l / 2; mean, std^2) / 2 of
the log-SNR; -l / 2 is log sigma where alpha = 1, and logit t on the straight path of flow matching.
The published density of the training times is then part of the weighting: since every loss here is
divided by the density of its draws, `times` affects the variance only. `times="log_normal"` with
`"edm"`, and `times="logit_normal"` with `"logit_normal"`, give the published losses, sampled as
published.

The functions in `WEIGHTINGS` return the product w (-dl/dt), so that weightings that are published
as a factor on the error itself are not divided by the slope and multiplied again.

References:
  Kingma and Gao (2023), https://arxiv.org/abs/2303.00848, section 3 and table 1 (sigmoid: bias 2).
  simple: Ho et al. (2020), https://arxiv.org/abs/2006.11239, eq. 14.
  min_snr: Hang et al. (2023), https://arxiv.org/abs/2303.09556, section 3 (gamma 5).
  snr_plus_one: Salimans and Ho (2022), https://arxiv.org/abs/2202.00512, section 4.
  flow: Lipman et al. (2022), https://arxiv.org/abs/2210.02747, eq. 5.
  edm: Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1.
  logit_normal: Esser et al. (2024), https://arxiv.org/abs/2403.03206, eq. 19.
  sigmoid: Hoogeboom et al. (2024), https://arxiv.org/abs/2410.19324, section 3.
"""

import functools
import math

import tensorflow as tf

from kgen.checks import check_one_of
from kgen.types import Weighting


def _min_snr(log_snr: tf.Tensor, slope: tf.Tensor, gamma: float = 5.0) -> tf.Tensor:
    return tf.exp(tf.minimum(math.log(gamma) - log_snr, 0))


def _density(log_snr: tf.Tensor, mean: float, std: float) -> tf.Tensor:
    """Returns the density of the log-SNR for -log_snr / 2 ~ N(mean, std^2)."""
    deviation = (-log_snr / 2 - mean) / std
    return tf.exp(-0.5 * deviation**2) / (2 * std * math.sqrt(2 * math.pi))


def _edm(
    log_snr: tf.Tensor,
    slope: tf.Tensor,
    sigma_data: float = 0.5,
    mean: float = -1.2,
    std: float = 1.2,
) -> tf.Tensor:
    return -slope * _density(log_snr, mean, std) * (1 + tf.exp(-log_snr) / sigma_data**2)


def _logit_normal(
    log_snr: tf.Tensor, slope: tf.Tensor, mean: float = 0.0, std: float = 1.0
) -> tf.Tensor:
    return -slope * _density(log_snr, mean, std) * (1 + tf.exp(-log_snr / 2)) ** 2


def _sigmoid(log_snr: tf.Tensor, slope: tf.Tensor, bias: float = 2.0) -> tf.Tensor:
    return -slope * tf.sigmoid(bias - log_snr)


WEIGHTINGS = {
    "elbo": lambda log_snr, slope: -slope,
    "simple": lambda log_snr, slope: tf.ones_like(log_snr),
    "min_snr": _min_snr,
    "snr_plus_one": lambda log_snr, slope: 1 + tf.exp(-log_snr),
    "flow": lambda log_snr, slope: (1 + tf.exp(-log_snr / 2)) ** 2,
    "edm": _edm,
    "edm_unit": functools.partial(_edm, sigma_data=1.0),
    "logit_normal": _logit_normal,
    "sigmoid": _sigmoid,
}

# The weightings that are functions of the log-SNR alone, for every schedule.
OF_LOG_SNR = ("edm", "edm_unit", "elbo", "logit_normal", "sigmoid")


def error_factor(
    weighting: Weighting, log_snr: tf.Tensor, slope: tf.Tensor, **options: float
) -> tf.Tensor:
    """Returns w(log_snr) (-dl/dt), the factor on the squared error of eps.

    Args:
        weighting: a key of `WEIGHTINGS`.
        log_snr: log-SNR, `[B]`.
        slope: d log_snr / dt, negative, `[B]`.
        **options: `gamma` of `"min_snr"`, `bias` of `"sigmoid"`, `sigma_data`, `mean` and `std`
            of `"edm"` and `"edm_unit"`, `mean` and `std` of `"logit_normal"`.

    Returns:
        A tensor `[B]`.

    Raises:
        ValueError: for an unknown weighting.

    Example:
        >>> error_factor("simple", tf.constant([3.0]), tf.constant([-20.0])).numpy().tolist()
        [1.0]
    """
    check_one_of("weighting", weighting, WEIGHTINGS)
    return WEIGHTINGS[weighting](log_snr, slope, **options)


def weight(
    weighting: Weighting, log_snr: tf.Tensor, slope: tf.Tensor, **options: float
) -> tf.Tensor:
    """Returns w(log_snr), `[B]`; training uses `error_factor`, which does not divide by the slope.

    Example:
        >>> weight("elbo", tf.constant([3.0]), tf.constant([-20.0])).numpy().tolist()
        [1.0]
    """
    return error_factor(weighting, log_snr, slope, **options) / -slope
