"""The noise schedule of the stochastic differential equations of Song et al.

    l_vp = -log expm1(B(u)),    B(u) = beta_min u + (beta_max - beta_min) u^2 / 2

with u the SDE's own time; `kgen.diffusion.schedule` says how t runs along it.

Reference:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eqs. 29, 32 and 33.
"""

import dataclasses
import math

import tensorflow as tf

from kgen.checks import check_one_of, check_positive
from kgen.diffusion.schedule import NoiseSchedule, as_real, check_range
from kgen.serialization import serializable


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
        check_one_of("scaling", self.scaling, ("vp", "sub_vp"))
        check_positive("beta_min", self.beta_min, zero=True)
        check_positive("beta_max", self.beta_max)
        if self.beta_min > self.beta_max:
            raise ValueError(
                "`beta_min` must be at most `beta_max`. "
                f"Received: beta_min={self.beta_min}, beta_max={self.beta_max}."
            )
        integral = (self.beta_min + self.beta_max) / 2
        own_end = -integral - self._power * math.log(-math.expm1(-integral))
        check_range(self.log_snr_max, own_end if self.log_snr_min is None else self.log_snr_min)

    def log_snr(self, t):
        """Returns the log-SNR at `t`, of the shape of `t`."""
        integral = self._integral(self._clock(as_real(t)))
        return -integral - self._power * tf.math.log(-tf.math.expm1(-integral))

    def slope(self, t):
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        t = as_real(t)
        start, end = self._ends(t.dtype)
        clock = self._clock(t)
        integral = self._integral(clock)
        rate = (self.beta_min + (self.beta_max - self.beta_min) * clock) * (end - start)
        slope = rate / tf.math.expm1(-integral)
        return slope * (1 + tf.exp(-integral)) if self.scaling == "sub_vp" else slope

    def time(self, log_snr):
        """Returns the time at which the log-SNR is `log_snr`."""
        log_snr = as_real(log_snr)
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
