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

from kgen.diffusion.prediction import error_scale, target
from kgen.diffusion.timesteps import sample_times
from kgen.diffusion.weighting import error_factor
from kgen.gaussian import Gaussian
from kgen.tensors import expand_to, normal, sum_event


def denoising(
    network, process, prediction, x, cond, seeds, *, weighting, times, levels=None, training=False
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
        times: a key of `TIME_SAMPLERS`; without effect on T levels, which are drawn evenly.
        levels: None for continuous time, or T.
        training: whether layers such as dropout are active.

    Returns:
        A tensor `[B]`, summed over the event; with the weighting `"elbo"` in nats.
    """
    batch_size = tf.shape(x)[0]
    if levels is None:
        t, density = sample_times(times, batch_size, seeds[0])
        log_snr = process.log_snr(t)
        slope = process.schedule.slope(t)
    else:
        even, density = sample_times("stratified", batch_size, seeds[0])
        i = tf.minimum(tf.floor(even * levels), levels - 1)
        log_snr_s, log_snr = process.log_snr(i / levels), process.log_snr((i + 1) / levels)
        slope = -levels * tf.math.expm1(log_snr_s - log_snr)
    alpha, sigma = (expand_to(a, x) for a in process.alpha_sigma_of(log_snr))
    eps = normal(tf.shape(x), seeds[1])
    output = network(alpha * x + sigma * eps, log_snr, cond, training=training)
    error = tf.cast(output, tf.float32) - target(prediction, x, eps, alpha, sigma)
    error = sum_event(error_scale(prediction, alpha, sigma) * error**2)
    return 0.5 * error_factor(weighting, log_snr, slope) / density * error


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
