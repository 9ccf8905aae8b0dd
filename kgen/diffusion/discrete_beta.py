"""The discrete noise schedules of published diffusion models, interpolated in continuous time.

Published models number their noise levels, i = 0 ... N - 1 (N = 1000), and define them by rates
beta_i:

    alpha_i^2 = product over j <= i of (1 - beta_j),    sigma_i^2 = 1 - alpha_i^2

    linear          beta equally spaced from beta_start to beta_end       DDPM
    scaled_linear   sqrt(beta) equally spaced between their roots         Stable Diffusion
    squaredcos      beta_i = 1 - a((i + 1) / N) / a(i / N),  at most 0.999,
                    a(u) = cos^2((u + 0.008) / 1.008 pi / 2)              Nichol and Dhariwal

The time in kgen is t = i / (N - 1). Between levels r = sigma / alpha is linear in the index, as the
published code interpolates, and l = -2 log r. The input of a published network for the noise level
is the index, which `LevelIndex` computes from the log-SNR.

The rates and products are rounded to float32, as in the tables that the networks were trained with,
since the rounding changes 1 - alpha^2 near the data.

With `zero_terminal_snr` the roots alpha_i are shifted and scaled so that the last one is zero: the
last level is pure noise, and black or white pictures can be generated. Here its alpha^2 is 2^-60,
so that its log-SNR is finite.

References:
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, section 4 (linear).
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752 (scaled_linear, in its code).
  Nichol and Dhariwal (2021), https://arxiv.org/abs/2102.09672, eq. 17.
  Lin et al. (2023), https://arxiv.org/abs/2305.08891, algorithm 1 (zero terminal SNR).
"""

import dataclasses
import functools
from typing import Literal

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_interval, check_one_of
from kgen.diffusion.schedule import NoiseSchedule, as_real
from kgen.serialization import serializable
from kgen.types import TensorLike

KINDS = ("linear", "scaled_linear", "squaredcos")
LEAST_ALPHA_SQUARED = 2.0**-60
MAX_LEVELS = 100_000


@serializable
@dataclasses.dataclass(frozen=True)
class DiscreteBeta(NoiseSchedule):
    """A published table of noise levels as a noise schedule in continuous time.

    Args:
        kind: `"linear"`, `"scaled_linear"` or `"squaredcos"`.
        beta_start: first rate; not used by `"squaredcos"`.
        beta_end: last rate; not used by `"squaredcos"`.
        num_levels: N, at least 2.
        zero_terminal_snr: whether the last level has no signal.

    Raises:
        ValueError: for another `kind`, for rates that are not 0 < beta_start <= beta_end < 1, or
            for fewer than 2 levels.

    Example:
        >>> schedule = DiscreteBeta()
        >>> [round(float(schedule.log_snr(t)), 2) for t in (0.0, 1.0)]
        [7.07, -5.36]
        >>> float(schedule.index(schedule.log_snr(901 / 999)).numpy().round(2))
        901.0
    """

    kind: Literal["linear", "scaled_linear", "squaredcos"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_levels: int = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        check_one_of("kind", self.kind, KINDS)
        check_interval("beta_start", self.beta_start, "(0, 1)")
        check_interval("beta_end", self.beta_end, "(0, 1)")
        check_count("num_levels", self.num_levels)
        check_interval("num_levels", self.num_levels, f"[2, {MAX_LEVELS}]")
        if self.beta_start > self.beta_end:
            raise ValueError(
                "`beta_start` must be at most `beta_end`. "
                f"Received: beta_start={self.beta_start}, beta_end={self.beta_end}."
            )

    @property
    def log_snr_max(self) -> float:
        """Log-SNR at t = 0."""
        return float(-2 * np.log(self.ratios[0]))

    @property
    def log_snr_min(self) -> float:
        """Log-SNR at t = 1."""
        return float(-2 * np.log(self.ratios[-1]))

    @property
    def ratios(self) -> np.ndarray:
        """The ratios sigma / alpha of the levels, increasing, a float64 array `[N]`."""
        return _ratios(
            self.kind, self.beta_start, self.beta_end, self.num_levels, self.zero_terminal_snr
        )

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns the log-SNR at `t`, of the shape of `t`."""
        t = as_real(t)
        low, high, share = self._between(t)
        return tf.cast(-2 * tf.math.log(low + share * (high - low)), t.dtype)

    def slope(self, t: TensorLike) -> tf.Tensor:
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        t = as_real(t)
        low, high, share = self._between(t)
        slope = -2 * (self.num_levels - 1) * (high - low) / (low + share * (high - low))
        return tf.cast(slope, t.dtype)

    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`."""
        return self.index(log_snr) / (self.num_levels - 1)

    def index(self, log_snr: TensorLike, scale: Literal["ratio", "log_snr"] = "ratio") -> tf.Tensor:
        """Returns the fractional index of a log-SNR, a real number from 0 to N - 1.

        Args:
            log_snr: log-SNR, of any shape.
            scale: the quantity in which the index is linear between two levels: `"ratio"`, sigma /
                alpha, as in this schedule; or `"log_snr"`, as published code finds the index of a
                sigma.
        """
        log_snr = as_real(log_snr)
        if scale == "ratio":
            table, value = self.ratios, tf.exp(-tf.cast(log_snr, tf.float64) / 2)
        else:
            table, value = np.log(self.ratios), -tf.cast(log_snr, tf.float64) / 2
        table = tf.constant(table, tf.float64)
        # Counted, since runtimes of exported networks have no search in a sorted table.
        below = tf.reduce_sum(tf.cast(table <= value[..., tf.newaxis], tf.int32), axis=-1) - 1
        below = tf.clip_by_value(below, 0, self.num_levels - 2)
        low, high = tf.gather(table, below), tf.gather(table, below + 1)
        index = tf.cast(below, tf.float64) + (value - low) / (high - low)
        return tf.cast(index, log_snr.dtype)

    def _between(self, t: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the ratios of the levels around a time, and its distance to the lower level."""
        index = tf.cast(t, tf.float64) * (self.num_levels - 1)
        below = tf.clip_by_value(tf.cast(tf.floor(index), tf.int32), 0, self.num_levels - 2)
        table = tf.constant(self.ratios, tf.float64)
        share = index - tf.cast(below, tf.float64)
        return tf.gather(table, below), tf.gather(table, below + 1), share


@serializable
@dataclasses.dataclass(frozen=True)
class LevelIndex:
    """A function from log-SNR to the index of the noise level, the input of published networks.

    An index within 0.001 of an integer is rounded to it, to undo the rounding of a float32 log-SNR.

    Args:
        schedule: a `DiscreteBeta`.
        rounding: whether every index is rounded to the nearest level, as published solvers on the
            Karras grid do; otherwise an index may lie between two levels.

    Example:
        >>> LevelIndex(DiscreteBeta())(DiscreteBeta().log_snr(tf.constant([0.0, 0.3]))).numpy()
        array([  0. , 299.7], dtype=float32)
    """

    schedule: DiscreteBeta
    rounding: bool = False

    def __call__(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the index, float32, of the shape of `log_snr`."""
        if self.rounding:
            return tf.round(tf.cast(self.schedule.index(log_snr, "log_snr"), tf.float32))
        index = tf.cast(self.schedule.index(log_snr), tf.float32)
        whole = tf.round(index)
        return tf.where(tf.abs(index - whole) < 1e-3, whole, index)


@functools.cache
def _ratios(
    kind: str, beta_start: float, beta_end: float, num_levels: int, zero_terminal_snr: bool
) -> np.ndarray:
    if kind == "linear":
        betas = np.linspace(beta_start, beta_end, num_levels, dtype="float32")
    elif kind == "scaled_linear":
        betas = np.linspace(beta_start**0.5, beta_end**0.5, num_levels, dtype="float32") ** 2
    else:
        u = np.arange(num_levels + 1) / num_levels
        kept = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - kept[1:] / kept[:-1], 0.999).astype("float32")
    kept = np.cumprod((1 - betas).astype("float64")).astype("float32")
    alpha = np.sqrt(kept.astype("float64"))
    if zero_terminal_snr:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    squared = np.maximum(alpha**2, LEAST_ALPHA_SQUARED)
    ratios = np.sqrt((1 - squared) / squared)
    ratios.setflags(write=False)
    return ratios
