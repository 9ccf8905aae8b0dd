"""Random times for training, and time grids for sampling.

Training estimates an integral over t in [0, 1] from B draws with density p, each divided by p(t):

    uniform        t ~ U(0, 1), p = 1
    stratified     t_i = (u + k_i / B) mod 1 with one u ~ U(0, 1) and k a random permutation of 0 to
                   B - 1, p = 1: the same mean with less variance
    logit_normal   logit t ~ N(mean, std^2), p(t) = N(logit t; mean, std^2) / (t (1 - t))
    importance     l = log_snr(t) ~ U, p(t) = (-dl/dt) / (l_max - l_min): the density proportional
                   to g^2 / sigma^2, which cancels the factor on the error of eps in the bound
    cosine         the angle a = arctan(sigma / alpha) ~ U between the ends of the schedule, as the
                   cosine schedule has it: p(l) in proportion to 1 / cosh(l / 2)
    log_normal     log(sigma / alpha) = -l / 2 ~ N(mean, std^2) between the ends of the schedule

The order is random because batches may be sorted: otherwise each class of a batch would be trained
on one part of the times in each step.

Sampling uses a grid of n + 1 times from `start` (1, or less for editing) to 0, equally spaced in
one of these coordinates:

    log_snr   the log-SNR; exponential integrators have their order on this grid
    t         the time of the schedule
    karras    sigma^(1 / rho) with sigma = exp(-l / 2), the noise level under the scaling "ve"

The number of steps may be a tensor, so that one compiled function serves every number of steps.

References:
  stratified: Kingma et al. (2021), https://arxiv.org/abs/2107.00630, appendix I.1.
  importance: Song et al. (2021), https://arxiv.org/abs/2101.09258, section 3.
  log_normal: Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1.
  cosine: Kingma and Gao (2023), https://arxiv.org/abs/2303.00848, table 1 (of the schedule).
  logit_normal: Esser et al. (2024), https://arxiv.org/abs/2403.03206, eq. 19.
  karras: Karras et al. (2022), https://arxiv.org/abs/2206.00364, eq. 5 (rho 7).
"""

import dataclasses
import math
from typing import TypeAlias

import tensorflow as tf

from kgen.checks import check_count, check_interval, check_one_of
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.tensors import normal, split, uniform
from kgen.types import TensorLike, TimeGrid, TimeSampler


def _uniform(
    process: GaussianDiffusion, batch_size: int | tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    t = uniform([batch_size], seed)
    return t, tf.ones_like(t)


def _stratified(
    process: GaussianDiffusion, batch_size: int | tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    start_seed, order_seed = split(seed, 2)
    order = tf.cast(tf.argsort(uniform([batch_size], order_seed)), tf.float32)
    t = tf.math.floormod(uniform([], start_seed) + order / tf.cast(batch_size, tf.float32), 1.0)
    return t, tf.ones_like(t)


def _logit_normal(
    process: GaussianDiffusion,
    batch_size: int | tf.Tensor,
    seed: tf.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    noise = normal([batch_size], seed)
    logit = mean + std * noise
    log_density = -0.5 * noise**2 - math.log(std * math.sqrt(2 * math.pi))
    log_jacobian = tf.nn.softplus(logit) + tf.nn.softplus(-logit)
    return tf.sigmoid(logit), tf.exp(log_density + log_jacobian)


def _importance(
    process: GaussianDiffusion, batch_size: int | tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    share, _ = _stratified(process, batch_size, seed)
    high, low = process.log_snr(0.0), process.log_snr(1.0)
    t = process.schedule.time((1 - share) * high + share * low)
    return t, -process.schedule.slope(t) / (high - low)


def _cosine(
    process: GaussianDiffusion, batch_size: int | tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    share, _ = _stratified(process, batch_size, seed)
    start, end = (tf.atan(tf.exp(-process.log_snr(t) / 2)) for t in (0.0, 1.0))
    t = process.schedule.time(-2 * tf.math.log(tf.tan((1 - share) * start + share * end)))
    # da/dl = -1 / (4 cosh(l / 2))
    density = -process.schedule.slope(t) / (4 * tf.cosh(process.log_snr(t) / 2) * (end - start))
    return t, density


def _log_normal(
    process: GaussianDiffusion,
    batch_size: int | tf.Tensor,
    seed: tf.Tensor,
    mean: float = -1.2,
    std: float = 1.2,
) -> tuple[tf.Tensor, tf.Tensor]:
    share, _ = _stratified(process, batch_size, seed)
    ends = [(-process.log_snr(t) / 2 - mean) / std for t in (0.0, 1.0)]
    low, high = (0.5 * (1 + tf.math.erf(end / math.sqrt(2))) for end in ends)
    # Clipped to the ends, beyond which the inverse may be infinite in float32.
    noise = tf.clip_by_value(tf.math.ndtri(low + share * (high - low)), ends[0], ends[1])
    t = process.schedule.time(-2 * (mean + std * noise))
    density = tf.exp(-0.5 * noise**2) / (std * math.sqrt(2 * math.pi) * (high - low))
    return t, density * -process.schedule.slope(t) / 2


TIME_SAMPLERS = {
    "cosine": _cosine,
    "importance": _importance,
    "log_normal": _log_normal,
    "uniform": _uniform,
    "stratified": _stratified,
    "logit_normal": _logit_normal,
}


@serializable
@dataclasses.dataclass(frozen=True)
class BoundSteps:
    """The timesteps of a discrete-time bound: 1/T, 2/T, ... 1, drawn uniformly.

    Args:
        num: the number of timesteps T.

    Example:
        >>> BoundSteps(1000).num
        1000
    """

    num: int

    def __post_init__(self) -> None:
        check_count("num", self.num)

    def draw(
        self, process: GaussianDiffusion, batch_size: int | tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draws timesteps.

        Returns:
            The log-SNR; the slope with which the loss estimates the sum over timesteps; and the
            density of the draw; each `[B]`.
        """
        share, density = _stratified(process, batch_size, seed)
        i = tf.minimum(tf.floor(share * self.num), self.num - 1)
        log_snr_s, log_snr = process.log_snr(i / self.num), process.log_snr((i + 1) / self.num)
        return log_snr, -self.num * tf.math.expm1(log_snr_s - log_snr), density


@serializable
@dataclasses.dataclass(frozen=True)
class NoiseLevels:
    """The noise levels of a score model: L equally spaced times from 0 to 1, drawn uniformly.

    Args:
        num: the number of noise levels L, at least 2.

    Example:
        >>> NoiseLevels(10).num
        10
    """

    num: int

    def __post_init__(self) -> None:
        check_count("num", self.num)
        check_interval("num", self.num, "[2, inf)")

    def draw(
        self, process: GaussianDiffusion, batch_size: int | tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draws noise levels; returns the log-SNR, its slope and the density, each `[B]`."""
        share, density = _stratified(process, batch_size, seed)
        t = tf.minimum(tf.floor(share * self.num), self.num - 1) / (self.num - 1)
        return process.log_snr(t), process.schedule.slope(t), density


# The argument `times` of `Denoiser.loss`.
TrainingTimes: TypeAlias = TimeSampler | BoundSteps | NoiseLevels


def draw_noise_levels(
    times: TrainingTimes, process: GaussianDiffusion, batch_size: int | tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws one noise level per example of a training batch.

    Args:
        times: a key of `TIME_SAMPLERS`, `BoundSteps(T)` or `NoiseLevels(L)`.
        process: a `GaussianDiffusion`.
        batch_size: number of examples.
        seed: an int32 pair.

    Returns:
        The log-SNR, its slope (for `BoundSteps` see `BoundSteps.draw`) and the density of the draw,
        each `[B]`.
    """
    if hasattr(times, "draw"):
        return times.draw(process, batch_size, seed)
    t, density = sample_times(times, process, batch_size, seed)
    return process.log_snr(t), process.schedule.slope(t), density


def sample_times(
    kind: TimeSampler,
    process: GaussianDiffusion,
    batch_size: int | tf.Tensor,
    seed: tf.Tensor,
    **options: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws training times and returns their density.

    Args:
        kind: a key of `TIME_SAMPLERS`.
        process: a `GaussianDiffusion`.
        batch_size: number of times, an integer or an int32 scalar tensor.
        seed: an int32 pair.
        **options: `mean` and `std` of `"logit_normal"` and `"log_normal"`.

    Returns:
        The times `[B]` and the density they were drawn from, `[B]`, float32.

    Raises:
        ValueError: for an unknown kind.

    Example:
        >>> from kgen.diffusion import CosineLogSNR, GaussianDiffusion
        >>> process = GaussianDiffusion(CosineLogSNR())
        >>> t, density = sample_times("stratified", process, 4, seed=[0, 1])
        >>> sorted((4 * t).numpy().astype(int).tolist()), density.numpy().tolist()
        ([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0])
    """
    check_one_of("kind", kind, TIME_SAMPLERS)
    return TIME_SAMPLERS[kind](process, batch_size, seed, **options)


def _in_log_snr(process: GaussianDiffusion, start: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    start, end = _ends(process, start, fraction.dtype)
    return process.schedule.time((1 - fraction) * start + fraction * end)


def _in_t(process: GaussianDiffusion, start: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    return (1 - fraction) * start


def _karras(
    process: GaussianDiffusion, start: tf.Tensor, fraction: tf.Tensor, rho: float = 7.0
) -> tf.Tensor:
    start, end = _ends(process, start, fraction.dtype)
    root = (1 - fraction) * tf.exp(-start / (2 * rho)) + fraction * tf.exp(-end / (2 * rho))
    return process.schedule.time(-2 * rho * tf.math.log(root))


def _ends(
    process: GaussianDiffusion, start: tf.Tensor, dtype: str | tf.DType
) -> tuple[tf.Tensor, tf.Tensor]:
    return process.log_snr(start), process.log_snr(tf.zeros([], dtype))


TIME_GRIDS = {"log_snr": _in_log_snr, "t": _in_t, "karras": _karras}


def time_grid(
    process: GaussianDiffusion,
    num_steps: int | tf.Tensor,
    kind: TimeGrid = "log_snr",
    dtype: str | tf.DType = "float32",
    start: TensorLike = 1.0,
    **options: float,
) -> tf.Tensor:
    """Returns the time grid of a sampling run, from `start` down to 0.

    Args:
        process: a `GaussianDiffusion`.
        num_steps: number of steps, an integer or an int32 scalar tensor, at least 1.
        kind: coordinate in which the times are equally spaced, a key of `TIME_GRIDS`.
        dtype: float32 or float64.
        start: first time, a number or a scalar tensor in (0, 1].
        **options: `rho` of `"karras"`.

    Returns:
        A decreasing tensor `[num_steps + 1]`, whose first entry is exactly `start` and whose last
        is exactly 0.

    Raises:
        TypeError: if `num_steps` is not a number.
        ValueError: for an unknown kind, or unless `num_steps` is an integer of at least 1.

    Example:
        >>> from kgen.diffusion import CosineLogSNR, GaussianDiffusion
        >>> time_grid(GaussianDiffusion(CosineLogSNR()), 4, kind="t").numpy().tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    check_one_of("kind", kind, TIME_GRIDS)
    if not tf.is_tensor(num_steps):
        check_count("num_steps", num_steps)
    num_steps = tf.cast(num_steps, tf.int32)
    fraction = tf.cast(tf.range(num_steps + 1), dtype) / tf.cast(num_steps, dtype)
    start = tf.cast(start, dtype)
    times = TIME_GRIDS[kind](process, start, fraction, **options)
    times = tf.where(fraction == 0, start, times)
    return tf.where(fraction == 1, tf.zeros_like(times), times)
