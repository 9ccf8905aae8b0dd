"""The noise schedule of the stochastic differential equations of Song et al.

    l_vp = -log expm1(B(u)),    B(u) = beta_min u + (beta_max - beta_min) u^2 / 2

with u the SDE's own time, through which t runs linearly (`kgen.diffusion.schedule`).

Reference:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eqs. 29, 32 and 33.
"""

import dataclasses
import math
from typing import Literal

import tensorflow as tf

from kgen.checks import check_one_of, check_positive
from kgen.diffusion.schedule import NoiseSchedule, as_real, check_range
from kgen.serialization import serializable
from kgen.types import TensorLike


@serializable
@dataclasses.dataclass(frozen=True)
class LinearBeta(NoiseSchedule):
    """The schedule of the VP and sub-VP stochastic differential equations with linear rate `beta`.

    With B the integral of beta, the VP process has alpha^2 = exp(-B), sigma^2 = 1 - exp(-B), and
    the sub-VP process alpha = exp(-B / 2), sigma = 1 - exp(-B); l_sub_vp = l_vp + softplus(l_vp).

    Args:
        beta_min: rate at the SDE's time 0.
        beta_max: rate at the SDE's time 1.
        scaling: `"vp"` or `"sub_vp"`, the SDE whose log-SNR this is.
        log_snr_max: log-SNR at t = 0.
        log_snr_min: log-SNR at t = 1; None for the SDE's value at its time 1.

    Raises:
        ValueError: for another `scaling`, for rates that are not `0 <= beta_min <= beta_max` with
            `beta_max > 0`, or unless the ends are finite and `log_snr_max > log_snr_min`.

    Example:
        >>> round(float(LinearBeta(0.1, 20.0).log_snr(1.0)), 2)
        -10.05
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    scaling: Literal["vp", "sub_vp"] = "vp"
    log_snr_max: float = 13.0
    log_snr_min: float | None = None

    def __post_init__(self) -> None:
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

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns the log-SNR at `t`, of the shape of `t`."""
        integral = self._integral(self._time_at(as_real(t)))
        return -integral - self._power * tf.math.log(-tf.math.expm1(-integral))

    def slope(self, t: TensorLike) -> tf.Tensor:
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        t = as_real(t)
        start, end = self._ends(t.dtype)
        u = self._time_at(t)
        integral = self._integral(u)
        rate = (self.beta_min + (self.beta_max - self.beta_min) * u) * (end - start)
        slope = rate / tf.math.expm1(-integral)
        return slope * (1 + tf.exp(-integral)) if self.scaling == "sub_vp" else slope

    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`."""
        log_snr = as_real(log_snr)
        start, end = self._ends(log_snr.dtype)
        return (self._sde_time(log_snr) - start) / (end - start)

    @property
    def _power(self) -> int:
        """The factor of log(1 - exp(-B)) in the log-SNR."""
        return 2 if self.scaling == "sub_vp" else 1

    def _integral(self, u: tf.Tensor) -> tf.Tensor:
        """Returns B(u), the integral of beta up to the SDE's time `u`."""
        return (self.beta_min + (self.beta_max - self.beta_min) * u / 2) * u

    def _sde_time(self, log_snr: tf.Tensor) -> tf.Tensor:
        """Returns the SDE's time u at a log-SNR."""
        if self.scaling == "vp":
            integral = tf.nn.softplus(-log_snr)
        else:
            ratio = tf.exp(-log_snr / 2)
            integral = tf.math.log1p(ratio * (ratio + tf.sqrt(ratio**2 + 4)) / 2)
        growth = 2 * (self.beta_max - self.beta_min) * integral
        return 2 * integral / (self.beta_min + tf.sqrt(self.beta_min**2 + growth))

    def _ends(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns u at t = 0 and 1."""
        start = self._sde_time(tf.constant(self.log_snr_max, tf.float64))
        if self.log_snr_min is None:
            return tf.cast(start, dtype), tf.ones([], dtype)
        end = self._sde_time(tf.constant(self.log_snr_min, tf.float64))
        return tf.cast(start, dtype), tf.cast(end, dtype)

    def _time_at(self, t: tf.Tensor) -> tf.Tensor:
        """Returns the SDE's time u at the time `t`."""
        start, end = self._ends(t.dtype)
        return (1 - t) * start + t * end
