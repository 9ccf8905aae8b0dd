"""Noise schedules: how the log signal-to-noise ratio falls with time.

A schedule is one decreasing function l = log_snr(t) of t in [0, 1], t = 0 being the data. What the
noisy value looks like at a log-SNR is another question, that of the scaling
(`kgen.diffusion.process`).

    linear    l = l_max + t (l_min - l_max)
    cosine    l = -2 log tan(a) + shift,    a between two angles in (0, pi/2)
    beta      l = -log expm1(B(u)),         B(u) = beta_min u + (beta_max - beta_min) u^2 / 2

The published cosine and beta schedules are infinite at an end. Here the natural clock (the angle
`a`, the SDE's time `u`) runs only between the points where the curve meets `log_snr_max` and
`log_snr_min`:

    clock(t) = clock(l_max) + t (clock(l_min) - clock(l_max))

so the curve keeps its shape, is strictly decreasing and finite on all of [0, 1], and nothing is
clamped.

`t` and the values have one shape, scalar or [B], float32 or float64.

References:
  log-SNR as the one variable: Kingma et al. (2021), https://arxiv.org/abs/2107.00630, section 3.
  cosine: Nichol and Dhariwal (2021), https://arxiv.org/abs/2102.09672, eq. 17.
  shift: Hoogeboom et al. (2023), https://arxiv.org/abs/2301.11093, section 3.1.
  beta: Song et al. (2021), https://arxiv.org/abs/2011.13456, eqs. 29, 32 and 33.
"""

import abc
import dataclasses
import math

import tensorflow as tf

from kgen.serialization import serializable
from kgen.tensors import derivative


class NoiseSchedule(abc.ABC):
    """A decreasing function from time in [0, 1] to the log signal-to-noise ratio.

    A new schedule defines `log_snr` and `time`; `slope` falls back on automatic differentiation.
    """

    @abc.abstractmethod
    def log_snr(self, t):
        """Returns log(alpha^2 / sigma^2) at the time `t`, scalar or `[B]`."""

    @abc.abstractmethod
    def time(self, log_snr):
        """Returns the time at which the schedule passes `log_snr`: the inverse of `log_snr`."""

    def slope(self, t):
        """Returns d log_snr / dt, negative, of the shape of `t`."""
        return derivative(self.log_snr, _real(t))


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

    def __post_init__(self):
        _check_range(self.log_snr_max, self.log_snr_min)

    def log_snr(self, t):
        """Returns the log-SNR at `t`, of the shape of `t`."""
        t = _real(t)
        return self.log_snr_max * (1 - t) + self.log_snr_min * t

    def slope(self, t):
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        return tf.fill(tf.shape(t), tf.cast(self.log_snr_min - self.log_snr_max, _real(t).dtype))

    def time(self, log_snr):
        """Returns the time at which the log-SNR is `log_snr`."""
        return (self.log_snr_max - _real(log_snr)) / (self.log_snr_max - self.log_snr_min)


@serializable
@dataclasses.dataclass(frozen=True)
class CosineLogSNR(NoiseSchedule):
    """The cosine schedule: under the VP scaling the signal is `cos(a)` and the noise `sin(a)`.

    Args:
        log_snr_max: log-SNR at t = 0.
        log_snr_min: log-SNR at t = 1.
        shift: added to the log-SNR of the cosine; 2 log(64 / d) for images of side d.

    Raises:
        ValueError: unless the ends are finite and `log_snr_max > log_snr_min`.

    Example:
        >>> CosineLogSNR().log_snr(tf.constant([0.0, 0.5, 1.0])).numpy().round(2).tolist()
        [15.0, 0.0, -15.0]
    """

    log_snr_max: float = 15.0
    log_snr_min: float = -15.0
    shift: float = 0.0

    def __post_init__(self):
        _check_range(self.log_snr_max, self.log_snr_min)

    def log_snr(self, t):
        """Returns the log-SNR at `t`, of the shape of `t`."""
        angle, complement = self._angles(_real(t))
        return 2 * tf.math.log(tf.sin(complement) / tf.sin(angle)) + self.shift

    def slope(self, t):
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        angle, complement = self._angles(_real(t))
        start, end, _, _ = self._ends()
        return -2 * (end - start) / (tf.sin(angle) * tf.sin(complement))

    def time(self, log_snr):
        """Returns the time at which the log-SNR is `log_snr`."""
        start, end, _, _ = self._ends()
        angle = tf.atan(tf.exp((self.shift - _real(log_snr)) / 2))
        return (angle - start) / (end - start)

    def _ends(self):
        """The angles at t = 0 and 1 and their complements, each to full precision."""
        halves = [(self.shift - end) / 2 for end in (self.log_snr_max, self.log_snr_min)]
        return [math.atan(math.exp(h)) for h in halves] + [math.atan(math.exp(-h)) for h in halves]

    def _angles(self, t):
        """The angle and its complement; `pi/2 - angle` would lose the digits near t = 1."""
        start, end, complement_start, complement_end = self._ends()
        return (1 - t) * start + t * end, (1 - t) * complement_start + t * complement_end


@serializable
@dataclasses.dataclass(frozen=True)
class LinearBeta(NoiseSchedule):
    """The log-SNR of Song's stochastic differential equation with a rate `beta` linear in time.

    With B the integral of beta, the VP process has alpha^2 = exp(-B), sigma^2 = 1 - exp(-B), and
    the sub-VP process alpha = exp(-B / 2), sigma = 1 - exp(-B); l_sub_vp = l_vp + softplus(l_vp).

    Args:
        beta_min: rate at the SDE's time 0.
        beta_max: rate at the SDE's time 1.
        scaling: `"vp"` or `"sub_vp"`, the SDE whose log-SNR this is.
        log_snr_max: log-SNR at t = 0.
        log_snr_min: log-SNR at t = 1; None stands for the SDE's own value at its time 1.

    Raises:
        ValueError: for another `scaling`, for rates that are not `0 <= beta_min <= beta_max` with
            `beta_max > 0`, or unless the ends are finite and `log_snr_max > log_snr_min`.

    Example:
        >>> round(float(LinearBeta(0.1, 20.0).log_snr(1.0)), 2)
        -10.05
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    scaling: str = "vp"
    log_snr_max: float = 13.0
    log_snr_min: float | None = None

    def __post_init__(self):
        if self.scaling not in ("vp", "sub_vp"):
            raise ValueError(
                f"`scaling` must be one of ['sub_vp', 'vp']. Received: scaling={self.scaling!r}."
            )
        if not (0 <= self.beta_min <= self.beta_max and 0 < self.beta_max < math.inf):
            raise ValueError(
                "`beta_min` and `beta_max` must satisfy 0 <= beta_min <= beta_max, beta_max > 0. "
                f"Received: beta_min={self.beta_min}, beta_max={self.beta_max}."
            )
        integral = (self.beta_min + self.beta_max) / 2
        own_end = -integral - self._power * math.log(-math.expm1(-integral))
        _check_range(self.log_snr_max, own_end if self.log_snr_min is None else self.log_snr_min)

    def log_snr(self, t):
        """Returns the log-SNR at `t`, of the shape of `t`."""
        integral = self._integral(self._clock(_real(t)))
        return -integral - self._power * tf.math.log(-tf.math.expm1(-integral))

    def slope(self, t):
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        t = _real(t)
        start, end = self._ends(t.dtype)
        clock = self._clock(t)
        integral = self._integral(clock)
        rate = (self.beta_min + (self.beta_max - self.beta_min) * clock) * (end - start)
        slope = rate / tf.math.expm1(-integral)
        return slope * (1 + tf.exp(-integral)) if self.scaling == "sub_vp" else slope

    def time(self, log_snr):
        """Returns the time at which the log-SNR is `log_snr`."""
        log_snr = _real(log_snr)
        start, end = self._ends(log_snr.dtype)
        return (self._sde_time(log_snr) - start) / (end - start)

    @property
    def _power(self):
        """How often log(1 - exp(-B)) enters the log-SNR."""
        return 2 if self.scaling == "sub_vp" else 1

    def _integral(self, clock):
        return (self.beta_min + (self.beta_max - self.beta_min) * clock / 2) * clock

    def _sde_time(self, log_snr):
        """The SDE's own time at a log-SNR, from the integral of beta there."""
        if self.scaling == "vp":
            integral = tf.nn.softplus(-log_snr)
        else:
            ratio = tf.exp(-log_snr / 2)
            integral = tf.math.log1p(ratio * (ratio + tf.sqrt(ratio**2 + 4)) / 2)
        growth = 2 * (self.beta_max - self.beta_min) * integral
        return 2 * integral / (self.beta_min + tf.sqrt(self.beta_min**2 + growth))

    def _ends(self, dtype):
        start = self._sde_time(tf.constant(self.log_snr_max, tf.float64))
        if self.log_snr_min is None:
            return tf.cast(start, dtype), tf.ones([], dtype)
        end = self._sde_time(tf.constant(self.log_snr_min, tf.float64))
        return tf.cast(start, dtype), tf.cast(end, dtype)

    def _clock(self, t):
        start, end = self._ends(t.dtype)
        return (1 - t) * start + t * end


def _real(value):
    value = tf.convert_to_tensor(value)
    return value if value.dtype.is_floating else tf.cast(value, tf.float32)


def _check_range(log_snr_max, log_snr_min):
    if not -math.inf < log_snr_min < log_snr_max < math.inf:
        raise ValueError(
            "`log_snr_max` must be greater than `log_snr_min` and both finite. "
            f"Received: log_snr_max={log_snr_max}, log_snr_min={log_snr_min}."
        )
