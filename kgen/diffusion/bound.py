"""The terms of the variational bound of a diffusion model.

    -log p(x) <= reconstruction + prior + denoising

    reconstruction   -E log p(x | z_0)
    prior            KL(q(z_1 | x) || p(z_1))
    denoising        1/2 E_t[ (-dl/dt) |eps - eps_hat(z_t, l_t)|^2 ]
                     with T timesteps: T/2 E_t[ expm1(l_s - l_t) |eps - eps_hat|^2 ],  s = t - 1/T

The second line of `denoising` is the sum over timesteps of KL(q(z_s|z_t,x) || q(z_s|z_t,x_hat)) =
1/2 (SNR(s) - SNR(t)) |x - x_hat|^2, and tends to the first from above as T grows. This term is the
loss of a `Denoiser` with the weighting `"elbo"`; this module has the other two.

For 8-bit data p(x | z_0) is the posterior of each value among the 256 grey levels given its noisy
observation z_0 / alpha_0 = x + sigma_0 / alpha_0 eps and a uniform prior; for real-valued data it
is the density N(x; z_0 / alpha_0, sigma_0^2 / alpha_0^2).

References:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eq. 11-18 and appendix H.
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 58 and 105.
"""

from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from kgen.diffusion.denoiser import Denoiser
from kgen.diffusion.process import GaussianDiffusion
from kgen.diffusion.times import draw_noise_levels
from kgen.diffusion.weighting import error_factor
from kgen.gaussian import Gaussian
from kgen.tensors import normal
from kgen.types import Condition, Weighting


def learned_schedule_terms(
    denoiser: Denoiser,
    x: tf.Tensor,
    cond: Condition,
    seeds: Sequence[tf.Tensor],
    *,
    weighting: Weighting,
    times: Literal["uniform", "stratified"],
    training: bool = True,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the denoising term, and a term of value zero that trains the schedule.

    Let L be the denoising term. The bound does not depend on the schedule between its fixed ends,
    only the variance of its estimate does (`kgen.diffusion.learned_schedule`). So L has no gradient
    with respect to the schedule's weights, and the second term has the gradient of log E[L^2].

    Args:
        denoiser: a `Denoiser` whose process has a learned schedule.
        x: data `[B, ...]`.
        cond: the condition or None.
        seeds: two int32 pairs, of the times and of the noise.
        weighting: one of `kgen.diffusion.weighting.OF_LOG_SNR`.
        times: `"uniform"` or `"stratified"`.
        training: whether layers such as dropout are active.

    Returns:
        Two tensors `[B]`, in nats.
    """
    log_snr, slope, density = draw_noise_levels(times, denoiser.process, tf.shape(x)[0], seeds[0])
    eps = normal(tf.shape(x), seeds[1])
    level = [tf.stop_gradient(log_snr), tf.stop_gradient(slope)]
    with tf.GradientTape() as tape:
        tape.watch(level)
        error = denoiser.error(x, eps, level[0], cond, training)
        terms = 0.5 * error_factor(weighting, *level) / density * error
    by_log_snr, by_slope = (tf.stop_gradient(g) for g in tape.gradient(terms, level))
    share = tf.stop_gradient(terms / tf.reduce_mean(terms**2))
    variance = 2 * share * (by_log_snr * log_snr + by_slope * slope)
    return terms, variance - tf.stop_gradient(variance)


def prior_term(process: GaussianDiffusion, x: tf.Tensor) -> tf.Tensor:
    """Returns KL(q(z_1 | x) || p(z_1)), `[B]`, in nats."""
    return process.marginal(x, 1.0).kl(process.prior(x))


def reconstruction_term(
    process: GaussianDiffusion, x: tf.Tensor, seed: tf.Tensor, grey_levels: int | None = None
) -> tf.Tensor:
    """Returns -log p(x | z_0) at one draw of z_0, `[B]`, in nats.

    Args:
        process: a `GaussianDiffusion`.
        x: data `[B, ...]`.
        seed: an int32 pair.
        grey_levels: None for real-valued data; for discrete data the number of values, which are
            equally spaced in [-1, 1].
    """
    log_snr = process.log_snr(0.0)
    eps = normal(tf.shape(x), seed)
    observed = x + tf.exp(-log_snr / 2) * eps
    if grey_levels is None:
        return -Gaussian(observed, tf.zeros_like(observed) - log_snr / 2).log_prob(x)

    def of_one(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        x, observed = (tf.reshape(a, [-1, 1]) for a in pair)
        values = tf.linspace(-1.0, 1.0, grey_levels)
        logits = -0.5 * tf.exp(log_snr) * (observed - values) ** 2
        right = -0.5 * tf.exp(log_snr) * (observed - x) ** 2
        return tf.reduce_sum(tf.reduce_logsumexp(logits, axis=-1) - right[:, 0])

    # One example at a time, since the logits take 256 times the memory of the examples.
    return tf.map_fn(of_one, (x, observed), fn_output_signature=tf.float32)
