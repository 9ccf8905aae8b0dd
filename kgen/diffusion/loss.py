"""The terms of the bound of a variational diffusion model.

    -log p(x) <= reconstruction + prior + denoising

    reconstruction   -E log p(x | z_0)
    prior            KL(q(z_1 | x) || p(z_1))
    denoising        1/2 E_t[ (-dl/dt) |eps - eps_hat(z_t, l_t)|^2 ]
                     with T levels: T/2 E_t[ expm1(l_s - l_t) |eps - eps_hat|^2 ],  s = t - 1/T

The second line of `denoising` is the sum over levels of KL(q(z_s|z_t,x) || q(z_s|z_t,x_hat)) = 1/2
(SNR(s) - SNR(t)) |x - x_hat|^2, and tends to the first from above as T grows. Training weighs it by
w(l), `kgen.diffusion.weighting`; with w = 1 it is the bound.

For 8-bit data p(x | z_0) is the posterior of each value among the 256 grey levels given its noisy
observation z_0 / alpha_0 = x + sigma_0 / alpha_0 eps and an even prior; for real-valued data it is
the density N(x; z_0 / alpha_0, sigma_0^2 / alpha_0^2).

References:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eq. 11-18 and appendix H.
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 58 and 105.
"""

import tensorflow as tf

from kgen.diffusion.denoiser import run
from kgen.diffusion.prediction import error_scale, target
from kgen.diffusion.timesteps import sample_times
from kgen.diffusion.weighting import error_factor
from kgen.gaussian import Gaussian
from kgen.tensors import expand_to, normal, sum_event


def noise_levels(process, batch_size, seed, *, times, levels=None, ladder=None):
    """Draws a noise level for each example.

    Args:
        process: a `GaussianDiffusion`.
        batch_size: number of examples.
        seed: an int32 pair.
        times: a key of `TIME_SAMPLERS`; without effect on levels, which are drawn evenly.
        levels: None for continuous time, or T for the steps of the bound, 1/T to 1.
        ladder: None, or L for noise levels without a bound, 0 to 1 with both ends.

    Returns:
        The log-SNR, its slope (with T levels, that of the sum over levels) and the density of the
        draw, each `[B]`.
    """
    if levels is None and ladder is None:
        t, density = sample_times(times, process, batch_size, seed)
        return process.log_snr(t), process.schedule.slope(t), density
    even, density = sample_times("stratified", process, batch_size, seed)
    number = levels if ladder is None else ladder
    i = tf.minimum(tf.floor(even * number), number - 1)
    if ladder is not None:
        t = i / (ladder - 1)
        return process.log_snr(t), process.schedule.slope(t), density
    log_snr_s, log_snr = process.log_snr(i / levels), process.log_snr((i + 1) / levels)
    return log_snr, -levels * tf.math.expm1(log_snr_s - log_snr), density


def squared_error(network, process, prediction, x, eps, cond, log_snr, training=False):
    """|eps - eps_hat|^2 at one noise level for each example, `[B]`, summed over the event."""
    alpha, sigma = (expand_to(a, x) for a in process.alpha_sigma_of(log_snr))
    z = alpha * x + sigma * eps
    output = run(network, process, prediction, z, log_snr, cond, training)
    error = output - target(prediction, x, eps, alpha, sigma)
    return sum_event(error_scale(prediction, alpha, sigma) * error**2)


def denoising(
    network,
    process,
    prediction,
    x,
    cond,
    seeds,
    *,
    weighting,
    times,
    levels=None,
    ladder=None,
    training=False,
):
    """The weighted denoising term of each example.

    Args:
        network: called as `network(z, log_snr, cond, training)`.
        process: a `GaussianDiffusion`.
        prediction: what the network's output means, one of `PREDICTION_TYPES`.
        x: data `[B, ...]`.
        cond: what the network is given beside the noisy value.
        seeds: two int32 pairs, of the times and of the noise.
        weighting: a key of `WEIGHTINGS`.
        times: as of `noise_levels`, like the two that follow.
        levels: None for continuous time, or T.
        ladder: None, or L.
        training: whether layers such as dropout are active.

    Returns:
        A tensor `[B]`, summed over the event; with the weighting `"elbo"` in nats.
    """
    log_snr, slope, density = noise_levels(
        process, tf.shape(x)[0], seeds[0], times=times, levels=levels, ladder=ladder
    )
    eps = normal(tf.shape(x), seeds[1])
    error = squared_error(network, process, prediction, x, eps, cond, log_snr, training)
    return 0.5 * error_factor(weighting, log_snr, slope) / density * error


def denoising_and_variance(
    network, process, prediction, x, cond, seeds, *, weighting, times, training=True
):
    """The denoising term, and a term that only trains the schedule.

    The second term is zero. Its gradient is that of log E[L^2] in the schedule's weights, L being
    the first term, which itself has no gradient in them: what there is to learn about a path
    between fixed ends is how to estimate the bound with less variance (`learned_schedule`).

    Args:
        network: as of `denoising`, like all that follow.
        process: a `GaussianDiffusion`, whose schedule has weights.
        prediction: what the network's output means.
        x: data `[B, ...]`.
        cond: what the network is given beside the noisy value.
        seeds: two int32 pairs.
        weighting: one of `kgen.diffusion.weighting.OF_LOG_SNR`.
        times: `"uniform"` or `"stratified"`.
        training: whether layers such as dropout are active.

    Returns:
        Two tensors `[B]`.
    """
    log_snr, slope, density = noise_levels(process, tf.shape(x)[0], seeds[0], times=times)
    eps = normal(tf.shape(x), seeds[1])
    level = [tf.stop_gradient(log_snr), tf.stop_gradient(slope)]
    with tf.GradientTape() as tape:
        tape.watch(level)
        error = squared_error(network, process, prediction, x, eps, cond, level[0], training)
        terms = 0.5 * error_factor(weighting, *level) / density * error
    by_log_snr, by_slope = (tf.stop_gradient(g) for g in tape.gradient(terms, level))
    share = tf.stop_gradient(terms / tf.reduce_mean(terms**2))
    variance = 2 * share * (by_log_snr * log_snr + by_slope * slope)
    return terms, variance - tf.stop_gradient(variance)


def prior_term(process, x):
    """KL(q(z_1 | x) || p(z_1)), `[B]` nats."""
    return process.marginal(x, 1.0).kl(process.prior(x))


def reconstruction_term(process, x, seed, grey_levels=None):
    """-log p(x | z_0) at one draw of z_0, `[B]` nats.

    Args:
        process: a `GaussianDiffusion`.
        x: data `[B, ...]`.
        seed: an int32 pair.
        grey_levels: None for real-valued data, or the number of values that a number of `x` can
            have, evenly spaced in [-1, 1].
    """
    log_snr = process.log_snr(0.0)
    eps = normal(tf.shape(x), seed)
    observed = x + tf.exp(-log_snr / 2) * eps
    if grey_levels is None:
        return -Gaussian(observed, tf.zeros_like(observed) - log_snr / 2).log_prob(x)

    def of_one(pair):
        x, observed = (tf.reshape(a, [-1, 1]) for a in pair)
        values = tf.linspace(-1.0, 1.0, grey_levels)
        logits = -0.5 * tf.exp(log_snr) * (observed - values) ** 2
        right = -0.5 * tf.exp(log_snr) * (observed - x) ** 2
        return tf.reduce_sum(tf.reduce_logsumexp(logits, axis=-1) - right[:, 0])

    # One example at a time: all of them together would need 256 times their memory.
    return tf.map_fn(of_one, (x, observed), fn_output_signature=tf.float32)
