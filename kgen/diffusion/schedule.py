"""Noise schedules: the log signal-to-noise ratio as a function of time.

A schedule is one decreasing function l = log_snr(t) of t in [0, 1], where t = 0 is the data. The
signal and noise levels alpha and sigma at a log-SNR are determined by the scaling
(`kgen.diffusion.process`).

    linear       l = l_max + t (l_min - l_max)
    cosine       l = -2 log tan(a) + shift,    a between two angles in (0, pi/2)
    beta         l = -log expm1(B(u)),         B(u) = beta_min u + (beta_max - beta_min) u^2 / 2
    polynomial   l = 2 log(1 - u^p) - log(1 - (1 - u^p)^2)
    flow         l = 2 log((1 - u) / u)
    edm          l = -2 rho log(r),            r between sigma_min^(1/rho) and sigma_max^(1/rho)
    learned      a monotone network            (`learned_schedule`)

The log-SNR of most published schedules is infinite at an end. Here the published parameter of a
curve (the angle `a`, the SDE's time `u`) is restricted to the interval on which the log-SNR lies
between `log_snr_max` and `log_snr_min`, and t runs linearly through that interval:

    u(t) = u(l_max) + t (u(l_min) - u(l_max))

So the curve keeps its shape, and is strictly decreasing and finite on all of [0, 1] without
clamping.

`t` and the values have one shape, scalar or [B], float32 or float64.

References:
  log-SNR as the one variable: Kingma et al. (2021), https://arxiv.org/abs/2107.00630, section 3.
  cosine: Nichol and Dhariwal (2021), https://arxiv.org/abs/2102.09672, eq. 17.
  shift: Hoogeboom et al. (2023), https://arxiv.org/abs/2301.11093, section 3.1.
  The sources of the other schedules are given in their modules.
"""

import abc
import dataclasses
import math

import tensorflow as tf

from kgen.checks import check_number
from kgen.serialization import serializable
from kgen.tensors import derivative
from kgen.types import Scaling, TensorLike


class NoiseSchedule(abc.ABC):
    """A decreasing function from time in [0, 1] to the log signal-to-noise ratio.

    A subclass defines `log_snr` and `time`; `slope` defaults to automatic differentiation.

    Attributes:
        scaling: the scaling that the schedule was published for, which is the default of a
            `GaussianDiffusion`; None if there is none in particular.
    """

    scaling: Scaling | None = None

    @abc.abstractmethod
    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns log(alpha^2 / sigma^2) at the time `t`, scalar or `[B]`."""

    @abc.abstractmethod
    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`: the inverse of `log_snr(t)`."""

    def slope(self, t: TensorLike) -> tf.Tensor:
        """Returns d log_snr / dt, negative, of the shape of `t`."""
        return derivative(self.log_snr, as_real(t))


@serializable
@dataclasses.dataclass(frozen=True)
class LinearLogSNR(NoiseSchedule):
    """A log-SNR that falls at a constant rate.

    Args:
        log_snr_max: log-SNR at t = 0.
        log_snr_min: log-SNR at t = 1.

    Raises:
        ValueError: unless both are finite and `log_snr_max > log_snr_min`.

    Example:
        >>> LinearLogSNR(10.0, -10.0).log_snr(tf.constant([0.0, 0.5, 1.0])).numpy().tolist()
        [10.0, 0.0, -10.0]
    """

    log_snr_max: float = 13.3
    log_snr_min: float = -10.0

    def __post_init__(self) -> None:
        check_range(self.log_snr_max, self.log_snr_min)

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns the log-SNR at `t`, of the shape of `t`."""
        t = as_real(t)
        return self.log_snr_max * (1 - t) + self.log_snr_min * t

    def slope(self, t: TensorLike) -> tf.Tensor:
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        return tf.fill(tf.shape(t), tf.cast(self.log_snr_min - self.log_snr_max, as_real(t).dtype))

    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`."""
        return (self.log_snr_max - as_real(log_snr)) / (self.log_snr_max - self.log_snr_min)


@serializable
@dataclasses.dataclass(frozen=True)
class CosineLogSNR(NoiseSchedule):
    """The cosine schedule: under the scaling "vp", alpha = cos(a) and sigma = sin(a).

    Args:
        log_snr_max: log-SNR at t = 0.
        log_snr_min: log-SNR at t = 1.
        shift: added to the log-SNR of the cosine; published as 2 log(64 / d) for images of side d.

    Raises:
        ValueError: unless the ends are finite and `log_snr_max > log_snr_min`.

    Example:
        >>> CosineLogSNR().log_snr(tf.constant([0.0, 0.5, 1.0])).numpy().round(2).tolist()
        [15.0, 0.0, -15.0]
    """

    log_snr_max: float = 15.0
    log_snr_min: float = -15.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        check_range(self.log_snr_max, self.log_snr_min)
        check_number("shift", self.shift)

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns the log-SNR at `t`, of the shape of `t`."""
        angle, complement = self._angles(as_real(t))
        return 2 * tf.math.log(tf.sin(complement) / tf.sin(angle)) + self.shift

    def slope(self, t: TensorLike) -> tf.Tensor:
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        angle, complement = self._angles(as_real(t))
        start, end, _, _ = self._ends()
        return -2 * (end - start) / (tf.sin(angle) * tf.sin(complement))

    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`."""
        start, end, _, _ = self._ends()
        angle = tf.atan(tf.exp((self.shift - as_real(log_snr)) / 2))
        return (angle - start) / (end - start)

    def _ends(self) -> list[float]:
        """Returns the angles at t = 0 and 1 and their complements, each to full precision."""
        halves = [(self.shift - end) / 2 for end in (self.log_snr_max, self.log_snr_min)]
        return [math.atan(math.exp(h)) for h in halves] + [math.atan(math.exp(-h)) for h in halves]

    def _angles(self, t: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the angle and its complement, since `pi/2 - angle` loses digits near t = 1."""
        start, end, complement_start, complement_end = self._ends()
        return (1 - t) * start + t * end, (1 - t) * complement_start + t * complement_end


def as_real(value: TensorLike) -> tf.Tensor:
    """Converts to a floating-point tensor: float32, unless the value has a floating-point dtype."""
    value = tf.convert_to_tensor(value)
    return value if value.dtype.is_floating else tf.cast(value, tf.float32)


def check_range(log_snr_max: float, log_snr_min: float) -> None:
    """Checks that the ends of a schedule are finite and ordered.

    Raises:
        TypeError: if an end is not a number.
        ValueError: unless both are finite and `log_snr_min < log_snr_max`.
    """
    check_number("log_snr_max", log_snr_max)
    check_number("log_snr_min", log_snr_min)
    if not log_snr_min < log_snr_max:
        raise ValueError(
            "`log_snr_max` must be greater than `log_snr_min`. "
            f"Received: log_snr_max={log_snr_max}, log_snr_min={log_snr_min}."
        )
