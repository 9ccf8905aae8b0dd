"""The log likelihood of a diffusion model by its probability flow.

In y = z / alpha and the log-SNR l the flow is free of the scaling (`kgen.solvers.solver`),

    dy/dl = -(y - x_hat) / 2,       d log p(y) / dl = (D - tr d x_hat / dy) / 2

so that, walking from the data (l_max) to the noise (l_min),

    log p(y_0) = log p(y_1) - integral over l from l_max to l_min of 1/2 (D - tr dx_hat/dy) dl
    log p(z_0) = log p(y_0) - D log alpha_0

with p(y_1) = N(0, (alpha_1^2 + sigma_1^2) / alpha_1^2). The trace is exact, one backward pass a
dimension, or estimated with Rademacher vectors v by v^T (dx_hat/dy) v, fixed along the path
(Hutchinson). Path and integral are found together by `kgen.solvers.DormandPrince`, with steps of
its own for each example: a value does not depend on the other examples of a batch.

Discrete data x in {0, ..., 255}, put into [-1, 1], have a density only after noise u that fills the
bins, and then (`dequantize`, and `kgen.metrics.bits_per_dim` with the width of a bin)

    log P(x) >= E_u[ log p(x + u) - log q(u | x) ],      q even: the second term is the bin's width

or after noise that is learned (`kgen.VariationalDequantization`).

References:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 39-40 and appendix D.2.
  Grathwohl et al. (2019), https://arxiv.org/abs/1810.01367, section 3.1 (Hutchinson's estimate).
  Theis et al. (2016), https://arxiv.org/abs/1511.01844, section 3.1 (even dequantisation).
"""

import tensorflow as tf

from kgen.checks import check_count
from kgen.gaussian import Gaussian
from kgen.solvers.dormand_prince import DormandPrince, integrate
from kgen.tensors import as_seed, expand_to, fold_in, sum_event, uniform


def log_likelihood(
    denoise,
    process,
    x,
    *,
    solver=None,
    num_probes=None,
    rtol=1e-5,
    atol=1e-5,
    max_steps=1000,
    seed=0,
):
    """Log density of `x` as values at t = 0 under the model that a denoiser defines.

    Args:
        denoise: a function of `z` `[B, ...]` and `t` `[B, 1, ...]`, which broadcasts against it,
            that returns `x_hat` `[B, ...]`; such as a `Denoiser`.
        process: a `GaussianDiffusion`.
        x: values at t = 0, `[B, ...]`: data with the noise of t = 0, or data if that is small.
        solver: a `DormandPrince`; None for one with the tolerances below.
        num_probes: None for the exact trace, or the number of random vectors of its estimate.
        rtol: relative tolerance of the integration.
        atol: absolute tolerance.
        max_steps: number of steps after which it gives up.
        seed: integer or int32 pair, of the random vectors.

    Returns:
        A tensor `[B]`, in nats.

    Raises:
        TypeError: if `solver` is something else.
        ValueError: if a number is not positive, or `x` not finite.
        tf.errors.InvalidArgumentError: if `max_steps` do not suffice, or an estimate is not
            finite.

    Example:
        >>> from kgen.diffusion import GaussianDiffusion, LinearLogSNR
        >>> process = GaussianDiffusion(LinearLogSNR(10.0, -10.0))
        >>> def denoise(z, t):  # of data N(0, 1)
        ...     return process.alpha_sigma(t)[0] * z
        >>> round(float(log_likelihood(denoise, process, tf.zeros([1, 1]))[0]), 3)
        -0.919
    """
    solver = DormandPrince(rtol, atol, max_steps) if solver is None else solver
    if not isinstance(solver, DormandPrince):
        raise TypeError(f"`solver` must be a DormandPrince or None. Received: solver={solver!r}.")
    if num_probes is not None:
        check_count("num_probes", num_probes)
    x = tf.convert_to_tensor(x)
    if not tf.inside_function() and not bool(tf.reduce_all(tf.math.is_finite(x))):
        raise ValueError("`x` must be finite. Received: NaN or infinite values.")
    shape, dtype = tf.shape(x), x.dtype
    size = x.shape[1:].num_elements()
    probes = _probes(shape, size, num_probes, as_seed(seed), dtype)
    start, end = (process.log_snr(tf.constant(t, dtype)) for t in (0.0, 1.0))
    alpha_0, _ = process.alpha_sigma_of(start)

    # A function that stays one: a step has seven stages, each of which would trace it anew.
    @tf.function(experimental_attributes={"_noinline": True})
    def slope(log_snr, state):
        y = state[0]
        t = expand_to(process.schedule.time(log_snr), y)
        alpha, _ = process.alpha_sigma_of(expand_to(log_snr, y))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(y)
            x_hat = denoise(alpha * y, t)

        def one(v):
            return sum_event(tape.gradient(x_hat, y, v) * v)

        trace = tf.reduce_sum(tf.map_fn(one, probes), axis=0)
        if num_probes is not None:
            trace /= num_probes
        return [-0.5 * (y - x_hat), -0.5 * (size - trace)]

    state = [x / alpha_0, tf.zeros(shape[:1], dtype)]
    (y, change), _ = integrate(slope, state, start, end, solver)
    log_alpha, _ = process.log_alpha_sigma_of(end)
    log_std = process.log_std_of(end) - log_alpha
    log_p = Gaussian(tf.zeros_like(y), tf.zeros_like(y) + log_std).log_prob(y)
    return log_p + change - size * tf.math.log(alpha_0)


def dequantize(x, seed, grey_levels=256):
    """Adds even noise as wide as a bin to discrete data.

    Args:
        x: values evenly spaced in [-1, 1], `[B, ...]`.
        seed: an integer or an int32 pair.
        grey_levels: how many different values there are.

    Returns:
        A tensor of the shape of `x`, in [-1 - w / 2, 1 + w / 2] with w = 2 / (grey_levels - 1).

    Example:
        >>> dequantize(tf.zeros([2, 3]), seed=0).shape
        TensorShape([2, 3])
    """
    x = tf.convert_to_tensor(x)
    half = 1 / (grey_levels - 1)
    return x + uniform(tf.shape(x), as_seed(seed), -half, half, dtype=x.dtype)


def _probes(shape, size, num_probes, seed, dtype):
    """The vectors of the trace, `[P, B, ...]`: all unit vectors, or random signs."""
    if num_probes is None:
        unit = tf.eye(size, dtype=dtype)
        return tf.map_fn(lambda v: tf.broadcast_to(tf.reshape(v, shape[1:]), shape), unit)
    signs = [uniform(shape, fold_in(seed, i), dtype=dtype) for i in range(num_probes)]
    return tf.sign(tf.stack(signs) - 0.5)
