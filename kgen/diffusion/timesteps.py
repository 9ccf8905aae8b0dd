"""Times: the random ones of training and the grids of sampling.

Training estimates an integral over t in [0, 1] from B draws with density p, each divided by p(t):

    uniform        t ~ U(0, 1), p = 1
    stratified     t_i = (u + i / B) mod 1 with one u ~ U(0, 1), p = 1: the same mean, less variance
    logit_normal   logit t ~ N(mean, std^2), p(t) = N(logit t; mean, std^2) / (t (1 - t))

Sampling runs through n + 1 times from 1 to 0, equidistant in some coordinate:

    log_snr   the log-SNR itself; where exponential integrators have their order
    t         the time of the schedule
    karras    sigma^(1 / rho) with sigma = exp(-l / 2) the noise of the variance-exploding picture

The number of steps may be a tensor: one compiled function serves every number of steps.

References:
  stratified: Kingma et al. (2021), https://arxiv.org/abs/2107.00630, appendix I.1.
  logit_normal: Esser et al. (2024), https://arxiv.org/abs/2403.03206, eq. 19.
  karras: Karras et al. (2022), https://arxiv.org/abs/2206.00364, eq. 5 (rho 7).
"""

import math

import tensorflow as tf

from kgen.tensors import normal, uniform


def _uniform(batch_size, seed):
    t = uniform([batch_size], seed)
    return t, tf.ones_like(t)


def _stratified(batch_size, seed):
    offsets = tf.cast(tf.range(batch_size), tf.float32) / tf.cast(batch_size, tf.float32)
    t = tf.math.floormod(uniform([], seed) + offsets, 1.0)
    return t, tf.ones_like(t)


def _logit_normal(batch_size, seed, mean=0.0, std=1.0):
    noise = normal([batch_size], seed)
    logit = mean + std * noise
    log_density = -0.5 * noise**2 - math.log(std * math.sqrt(2 * math.pi))
    log_jacobian = tf.nn.softplus(logit) + tf.nn.softplus(-logit)
    return tf.sigmoid(logit), tf.exp(log_density + log_jacobian)


TIME_SAMPLERS = {
    "uniform": _uniform,
    "stratified": _stratified,
    "logit_normal": _logit_normal,
}


def sample_times(kind, batch_size, seed, **options):
    """Draws training times.

    Args:
        kind: a key of `TIME_SAMPLERS`.
        batch_size: number of times, an integer or an int32 scalar tensor.
        seed: an int32 pair.
        **options: `mean` and `std` of `"logit_normal"`.

    Returns:
        The times `[B]` and the density `[B]` they were drawn from, float32.

    Raises:
        ValueError: for an unknown kind.

    Example:
        >>> t, density = sample_times("stratified", 4, seed=[0, 1])
        >>> sorted((4 * t).numpy().astype(int).tolist()), density.numpy().tolist()
        ([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0])
    """
    _check_kind(kind, TIME_SAMPLERS)
    return TIME_SAMPLERS[kind](batch_size, seed, **options)


def _in_log_snr(process, fraction):
    start, end = process.log_snr(tf.ones_like(fraction)), process.log_snr(tf.zeros_like(fraction))
    return process.schedule.time((1 - fraction) * start + fraction * end)


def _in_t(process, fraction):
    return 1 - fraction


def _karras(process, fraction, rho=7.0):
    start, end = process.log_snr(tf.ones_like(fraction)), process.log_snr(tf.zeros_like(fraction))
    root = (1 - fraction) * tf.exp(-start / (2 * rho)) + fraction * tf.exp(-end / (2 * rho))
    return process.schedule.time(-2 * rho * tf.math.log(root))


TIME_GRIDS = {"log_snr": _in_log_snr, "t": _in_t, "karras": _karras}


def time_grid(process, num_steps, kind="log_snr", dtype="float32", **options):
    """Returns the times of a sampling run, from 1 down to 0.

    Args:
        process: a `GaussianDiffusion`.
        num_steps: number of steps, an integer or an int32 scalar tensor, at least 1.
        kind: a key of `TIME_GRIDS`.
        dtype: float32 or float64.
        **options: `rho` of `"karras"`.

    Returns:
        A decreasing tensor `[num_steps + 1]`, exactly 1 first and exactly 0 last.

    Raises:
        ValueError: for an unknown kind.

    Example:
        >>> from kgen.diffusion import CosineLogSNR, GaussianDiffusion
        >>> time_grid(GaussianDiffusion(CosineLogSNR()), 4, kind="t").numpy().tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    _check_kind(kind, TIME_GRIDS)
    num_steps = tf.cast(num_steps, tf.int32)
    fraction = tf.cast(tf.range(num_steps + 1), dtype) / tf.cast(num_steps, dtype)
    times = TIME_GRIDS[kind](process, fraction, **options)
    times = tf.where(fraction == 0, tf.ones_like(times), times)
    return tf.where(fraction == 1, tf.zeros_like(times), times)


def _check_kind(kind, table):
    if kind not in table:
        raise ValueError(f"`kind` must be one of {sorted(table)}. Received: kind={kind!r}.")
