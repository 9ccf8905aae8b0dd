"""The log likelihood of a diffusion model by its probability flow.

In y = z / alpha and the log-SNR l the flow does not depend on the scaling
(`kgen.solvers.dormand_prince`),

    dy/dl = -(y - x_hat) / 2,       d log p(y) / dl = (D - tr d x_hat / dy) / 2

so that, integrated from the data (l_max) to the noise (l_min),

    log p(y_0) = log p(y_1) - integral over l from l_max to l_min of 1/2 (D - tr dx_hat/dy) dl
    log p(z_0) = log p(y_0) - D log alpha_0

with p(y_1) = N(0, (alpha_1^2 + sigma_1^2) / alpha_1^2). The trace is exact, at the cost of one
backward pass per dimension, or estimated with Rademacher vectors v by v^T (dx_hat/dy) v, fixed
along the path (Hutchinson). The path and the integral are computed together by
`kgen.solvers.DormandPrince`., with separate steps for each example: a value does
not depend on the other examples of its batch.

Discrete data x in {0, ..., 255}, scaled to [-1, 1], have a density after noise u is added that
fills the bins. For a dequantisation q(u | x),

    log P(x) >= E_u[ log p(x + u) - log q(u | x) ]

For uniform q (`dequantize`) the second term is the log of the bin width, which
`kgen.metrics.bits_per_dim` takes as `bin_width`; `kgen.VariationalDequantization` learns q.

References:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 39-40 and appendix D.2.
  Grathwohl et al. (2019), https://arxiv.org/abs/1810.01367, section 3.1 (Hutchinson's estimate).
  Theis et al. (2016), https://arxiv.org/abs/1511.01844, section 3.1 (uniform dequantisation).
"""

import tensorflow as tf

from kgen.checks import check_count
from kgen.diffusion.process import GaussianDiffusion
from kgen.gaussian import Gaussian
from kgen.solvers.dormand_prince import DormandPrince, integrate
from kgen.tensors import as_seed, expand_to, fold_in, sum_event, uniform
from kgen.types import Denoise, Seed, TensorLike


def log_likelihood(
    denoise: Denoise,
    process: GaussianDiffusion,
    x: TensorLike,
    *,
    solver: DormandPrince | None = None,
    num_probes: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    seed: Seed = 0,
) -> tf.Tensor:
    """Returns the log density of `x`, as values at t = 0, under the probability flow of a denoiser.

    Args:
        denoise: a function of `z` `[B, ...]` and `t` `[B, 1, ...]`, which broadcasts against it,
            that returns `x_hat` `[B, ...]`; such as a `Denoiser`.
        process: a `GaussianDiffusion`.
        x: values at t = 0, `[B, ...]`: data with the noise of t = 0, or data if that noise is
            small.
        solver: a `DormandPrince`; None for one with the tolerances below.
        num_probes: None for the exact trace, or the number of random vectors with which it is
            estimated.
        rtol: relative tolerance of the integration.
        atol: absolute tolerance of the integration.
        max_steps: largest number of steps of the integration; more are an error.
        seed: seed of the random vectors, an integer or an int32 pair.

    Returns:
        A tensor `[B]`, in nats.

    Raises:
        TypeError: if `solver` is neither a `DormandPrince` nor None.
        ValueError: if a number is not positive, or `x` is not finite.
        tf.errors.InvalidArgumentError: if `max_steps` steps are not enough, or an estimate is not
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

    # Not inlined, since each of the seven stages of a step would trace it again.
    @tf.function(experimental_attributes={"_noinline": True})
    def slope(log_snr: tf.Tensor, state: list[tf.Tensor]) -> list[tf.Tensor]:
        y = state[0]
        t = expand_to(process.schedule.time(log_snr), y)
        alpha, _ = process.alpha_sigma_of(expand_to(log_snr, y))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(y)
            x_hat = denoise(alpha * y, t)

        def one(v: tf.Tensor) -> tf.Tensor:
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


def dequantize(x: TensorLike, seed: Seed, grey_levels: int = 256) -> tf.Tensor:
    """Adds uniform noise of the width of a bin to discrete data.

    Args:
        x: values on a grid of equal spacing in [-1, 1], `[B, ...]`.
        seed: an integer or an int32 pair.
        grey_levels: number of values of the grid.

    Returns:
        A tensor of the shape of `x`, in [-1 - w / 2, 1 + w / 2] with w = 2 / (grey_levels - 1).

    Example:
        >>> dequantize(tf.zeros([2, 3]), seed=0).shape
        TensorShape([2, 3])
    """
    x = tf.convert_to_tensor(x)
    half = 1 / (grey_levels - 1)
    return x + uniform(tf.shape(x), as_seed(seed), -half, half, dtype=x.dtype)


def _probes(
    shape: tf.Tensor, size: int, num_probes: int | None, seed: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    """Returns the vectors of the trace, `[P, B, ...]`: all unit vectors, or random signs."""
    if num_probes is None:
        unit = tf.eye(size, dtype=dtype)
        return tf.map_fn(lambda v: tf.broadcast_to(tf.reshape(v, shape[1:]), shape), unit)
    signs = [uniform(shape, fold_in(seed, i), dtype=dtype) for i in range(num_probes)]
    return tf.sign(tf.stack(signs) - 0.5)
