"""The log likelihood of a diffusion model by its probability flow.

In y = z / alpha and the log-SNR l the flow is free of the scaling (`kgen.solvers.solver`),

    dy/dl = -(y - x_hat) / 2,       d log p(y) / dl = (D - tr d x_hat / dy) / 2

so that, walking from the data (l_max) to the noise (l_min),

    log p(y_0) = log p(y_1) - integral over l from l_max to l_min of 1/2 (D - tr dx_hat/dy) dl
    log p(z_0) = log p(y_0) - D log alpha_0

with p(y_1) = N(0, (alpha_1^2 + sigma_1^2) / alpha_1^2). The trace is exact, one backward pass a
dimension, or estimated with Rademacher vectors v by v^T (dx_hat/dy) v, fixed along the path
(Hutchinson). The integral is done by the adaptive Runge-Kutta pair of Dormand and Prince; a step is
accepted when the root mean square of the error over all that is integrated, in units of atol +
rtol |y|, is at most 1.

References:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 39-40 and appendix D.2.
  Grathwohl et al. (2019), https://arxiv.org/abs/1810.01367, section 3.1 (Hutchinson's estimate).
  Dormand and Prince (1980), https://doi.org/10.1016/0771-050X(80)90013-3.
"""

import tensorflow as tf

from kgen.gaussian import Gaussian
from kgen.tensors import as_seed, fold_in, sum_event, uniform

_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ERROR = (
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)


def log_likelihood(
    denoise, process, x, *, num_probes=None, rtol=1e-5, atol=1e-5, max_steps=1000, seed=0
):
    """Log density of `x` as values at t = 0 under the model that a denoiser defines.

    Args:
        denoise: a function of `z` `[B, ...]` and a scalar `t` that returns `x_hat` `[B, ...]`.
        process: a `GaussianDiffusion`.
        x: values at t = 0, `[B, ...]`: data with the noise of t = 0, or data if that is small.
        num_probes: None for the exact trace, or the number of random vectors of its estimate.
        rtol: relative tolerance of the integration.
        atol: absolute tolerance.
        max_steps: number of steps after which it gives up.
        seed: integer or int32 pair, of the random vectors.

    Returns:
        A tensor `[B]`, in nats.

    Raises:
        ValueError: if a number is not positive.
        tf.errors.InvalidArgumentError: if `max_steps` do not suffice.

    Example:
        >>> from kgen.diffusion import GaussianDiffusion, LinearLogSNR
        >>> process = GaussianDiffusion(LinearLogSNR(10.0, -10.0))
        >>> def denoise(z, t):  # of data N(0, 1)
        ...     return process.alpha_sigma(t)[0] * z
        >>> round(float(log_likelihood(denoise, process, tf.zeros([1, 1]))[0]), 3)
        -0.919
    """
    for name, value in (("rtol", rtol), ("atol", atol), ("max_steps", max_steps)):
        if not value > 0:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}.")
    if num_probes is not None and num_probes < 1:
        raise ValueError(
            "`num_probes` must be at least 1, or None for the exact trace. "
            f"Received: num_probes={num_probes}."
        )
    x = tf.convert_to_tensor(x)
    shape, dtype = tf.shape(x), x.dtype
    size = x.shape[1:].num_elements()
    probes = _probes(shape, size, num_probes, as_seed(seed), dtype)
    start, end = (process.log_snr(tf.constant(t, dtype)) for t in (0.0, 1.0))
    alpha_0, _ = process.alpha_sigma_of(start)

    def slope(log_snr, y):
        alpha, _ = process.alpha_sigma_of(log_snr)
        t = process.schedule.time(log_snr)

        def one(v):
            with tf.GradientTape() as tape:
                tape.watch(y)
                along = tf.reduce_sum(denoise(alpha * y, t) * v)
            return sum_event(tape.gradient(along, y) * v)

        trace = tf.reduce_sum(tf.map_fn(one, probes), axis=0)
        if num_probes is not None:
            trace /= num_probes
        return -0.5 * (y - denoise(alpha * y, t)), -0.5 * (size - trace)

    y, change = _integrate(slope, x / alpha_0, start, end, rtol, atol, max_steps)
    _, log_sigma = process.log_alpha_sigma_of(end)
    log_alpha, _ = process.log_alpha_sigma_of(end)
    log_std = log_sigma + tf.nn.softplus(end) / 2 - log_alpha
    log_p = Gaussian(tf.zeros_like(y), tf.zeros_like(y) + log_std).log_prob(y)
    return log_p + change - size * tf.math.log(alpha_0)


def _probes(shape, size, num_probes, seed, dtype):
    """The vectors of the trace, `[P, B, ...]`: all unit vectors, or random signs."""
    if num_probes is None:
        unit = tf.eye(size, dtype=dtype)
        return tf.map_fn(lambda v: tf.broadcast_to(tf.reshape(v, shape[1:]), shape), unit)
    signs = [uniform(shape, fold_in(seed, i), dtype=dtype) for i in range(num_probes)]
    return tf.sign(tf.stack(signs) - 0.5)


def _integrate(slope, y, start, end, rtol, atol, max_steps):
    """Integrates (y, total) with slope(l, y) = (dy/dl, dtotal/dl) from `start` to `end`."""
    dtype = y.dtype

    def body(count, at, h, y, total):
        h = tf.where(tf.abs(h) > tf.abs(end - at), end - at, h)
        ks = [slope(at, y)]
        for row, c in zip(_A, _C[1:]):
            stage = y + h * sum(a * k[0] for a, k in zip(row, ks))
            ks.append(slope(at + c * h, stage))
        new_y = stage  # the last stage is the result of order 5
        new_total = total + h * sum(a * k[1] for a, k in zip(_A[-1], ks))
        errors = [h * sum(e * k[i] for e, k in zip(_ERROR, ks)) for i in (0, 1)]
        scale = atol + rtol * tf.maximum(tf.abs(y), tf.abs(new_y))
        scales = (scale, atol + rtol * tf.maximum(tf.abs(total), tf.abs(new_total)))
        squares = [tf.reduce_mean((e / s) ** 2) for e, s in zip(errors, scales)]
        error = tf.sqrt(tf.maximum(*squares))
        accept = error <= 1
        growth = 0.9 * tf.maximum(error, 1e-6) ** -0.2
        next_h = h * tf.clip_by_value(growth, 0.2, 5.0)
        return (
            count + 1,
            tf.where(accept, at + h, at),
            next_h,
            tf.where(accept, new_y, y),
            tf.where(accept, new_total, total),
        )

    def going(count, at, h, y, total):
        left = tf.abs(end - at) > 1e-6 * tf.abs(end - start)
        return left & (count < max_steps)

    state = (tf.constant(0), start, (end - start) / 50, y, tf.zeros([tf.shape(y)[0]], dtype))
    _, at, _, y, total = tf.while_loop(going, body, state)
    tf.debugging.assert_less_equal(
        tf.abs(end - at),
        1e-6 * tf.abs(end - start),
        f"`max_steps` must be more than {max_steps} for these tolerances.",
    )
    return y, total
