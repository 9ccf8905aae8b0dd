"""Noise schedules that are a published curve in closed form, restricted to a range of log-SNR.

    polynomial   alpha^2 = (1 - u^p)^2 and sigma^2 = 1 - alpha^2 under VP
    flow         alpha = 1 - u and sigma = u under the flow scaling
    edm          sigma / alpha = r^rho, r linear in time

with u the parameter of the curve, through which t runs linearly (`kgen.diffusion.schedule`).

References:
  polynomial: Hoogeboom et al. (2022), https://arxiv.org/abs/2203.17003, appendix B (p = 2).
  flow: Lipman et al. (2022), https://arxiv.org/abs/2210.02747, section 4.1; Liu et al. (2022),
    https://arxiv.org/abs/2209.03003, eq. 1.
  edm: Karras et al. (2022), https://arxiv.org/abs/2206.00364, eq. 5 and table 1.
"""

import dataclasses
import math

import tensorflow as tf

from kgen.checks import check_positive
from kgen.diffusion.schedule import NoiseSchedule, as_real, check_range
from kgen.serialization import serializable
from kgen.types import TensorLike


@serializable
@dataclasses.dataclass(frozen=True)
class PolynomialLogSNR(NoiseSchedule):
    """The polynomial schedule: under the scaling "vp", alpha = 1 - u^p.

    Args:
        power: the exponent p, positive.
        log_snr_max: log-SNR at t = 0.
        log_snr_min: log-SNR at t = 1.

    Raises:
        ValueError: if `power` is not positive, or unless the ends are finite and ordered.

    Example:
        >>> PolynomialLogSNR().log_snr(tf.constant([0.0, 1.0])).numpy().round(3).tolist()
        [10.0, -10.0]
    """

    power: float = 2.0
    log_snr_max: float = 10.0
    log_snr_min: float = -10.0

    def __post_init__(self) -> None:
        check_positive("power", self.power)
        check_range(self.log_snr_max, self.log_snr_min)

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns the log-SNR at `t`, of the shape of `t`."""
        _, loss, alpha = self._parts(as_real(t))
        return 2 * tf.math.log(alpha) - tf.math.log(loss) - tf.math.log1p(alpha)

    def slope(self, t: TensorLike) -> tf.Tensor:
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        t = as_real(t)
        start, end, _, _ = self._ends(t.dtype)
        u, _, alpha = self._parts(t)
        # dl/dalpha = 2 / (alpha (1 - alpha^2)), and dalpha/du = -p u^(p - 1) = -p (1 - alpha) / u.
        return -2 * self.power * (end - start) / (alpha * (1 + alpha) * u)

    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`."""
        log_snr = as_real(log_snr)
        start, end, _, _ = self._ends(log_snr.dtype)
        return (self._parameter_at(log_snr)[0] - start) / (end - start)

    def _parts(self, t: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns u, u^p and 1 - u^p, each to full precision."""
        start, end, complement_start, complement_end = self._ends(t.dtype)
        u = (1 - t) * start + t * end
        complement = (1 - t) * complement_start + t * complement_end
        return u, u**self.power, -tf.math.expm1(self.power * tf.math.log1p(-complement))

    def _parameter_at(self, log_snr: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns u and 1 - u at a log-SNR."""
        # alpha = sqrt(sigmoid(l)); u^p = 1 - alpha = (1 - alpha^2) / (1 + alpha).
        alpha = tf.sqrt(tf.sigmoid(log_snr))
        log_loss = tf.math.log(tf.sigmoid(-log_snr)) - tf.math.log1p(alpha)
        return tf.exp(log_loss / self.power), -tf.math.expm1(log_loss / self.power)

    def _ends(self, dtype: tf.DType) -> list[tf.Tensor]:
        """Returns u at t = 0 and 1, and 1 - u there."""
        ends = tf.constant([self.log_snr_max, self.log_snr_min], tf.float64)
        return tf.unstack(tf.cast(tf.concat(self._parameter_at(ends), 0), dtype))


@serializable
@dataclasses.dataclass(frozen=True)
class FlowLogSNR(NoiseSchedule):
    """The straight path of flow matching: under the scaling "flow", alpha = 1 - u and sigma = u.

    Args:
        log_snr_max: log-SNR at t = 0.
        log_snr_min: log-SNR at t = 1.
        shift: factor on sigma / alpha; published as more than 1 for large pictures.

    Raises:
        ValueError: if `shift` is not positive, or unless the ends are finite and ordered.

    References:
        shift: Esser et al. (2024), https://arxiv.org/abs/2403.03206, eq. 23.

    Example:
        >>> FlowLogSNR().log_snr(tf.constant([0.0, 0.5, 1.0])).numpy().round(2).tolist()
        [14.0, 0.0, -14.0]
    """

    log_snr_max: float = 14.0
    log_snr_min: float = -14.0
    shift: float = 1.0
    scaling = "flow"

    def __post_init__(self) -> None:
        check_positive("shift", self.shift)
        check_range(self.log_snr_max, self.log_snr_min)

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns the log-SNR at `t`, of the shape of `t`."""
        clean, noisy = self._levels(as_real(t))
        return 2 * (tf.math.log(clean) - tf.math.log(noisy)) - 2 * math.log(self.shift)

    def slope(self, t: TensorLike) -> tf.Tensor:
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        t = as_real(t)
        clean, noisy = self._levels(t)
        start, end = self._ends()
        return -2 * (end - start) / (clean * noisy)

    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`."""
        start, end = self._ends()
        return (tf.sigmoid(-as_real(log_snr) / 2 - math.log(self.shift)) - start) / (end - start)

    def _ends(self, sign: int = -1) -> list[float]:
        """Returns u at t = 0 and 1, or 1 - u with `sign=1`."""
        logits = [sign * (v / 2 + math.log(self.shift)) for v in self._range()]
        return [1 / (1 + math.exp(-v)) for v in logits]

    def _range(self) -> tuple[float, float]:
        return self.log_snr_max, self.log_snr_min

    def _levels(self, t: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns 1 - u and u, each to full precision."""
        (clean_0, clean_1), (noisy_0, noisy_1) = self._ends(1), self._ends(-1)
        return (1 - t) * clean_0 + t * clean_1, (1 - t) * noisy_0 + t * noisy_1


@serializable
@dataclasses.dataclass(frozen=True)
class EDMLogSNR(NoiseSchedule):
    """The noise schedule of EDM: (sigma / alpha)^(1 / rho) is linear in time.

    Args:
        sigma_min: noise level sigma / alpha at t = 0.
        sigma_max: noise level sigma / alpha at t = 1.
        rho: 1 is linear in the noise level; the limit of large values is linear in its logarithm.

    Raises:
        ValueError: unless `0 < sigma_min < sigma_max` and `rho` is positive, all finite.

    Example:
        >>> EDMLogSNR().log_snr(tf.constant([0.0, 1.0])).numpy().round(2)
        array([12.43, -8.76], dtype=float32)
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    scaling = "ve"

    def __post_init__(self) -> None:
        for name in ("sigma_min", "sigma_max", "rho"):
            check_positive(name, getattr(self, name))
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                "`sigma_min` must be less than `sigma_max`. "
                f"Received: sigma_min={self.sigma_min}, sigma_max={self.sigma_max}."
            )

    @property
    def log_snr_max(self) -> float:
        """Log-SNR at t = 0."""
        return -2 * math.log(self.sigma_min)

    @property
    def log_snr_min(self) -> float:
        """Log-SNR at t = 1."""
        return -2 * math.log(self.sigma_max)

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns the log-SNR at `t`, of the shape of `t`."""
        return -2 * self.rho * tf.math.log(self._root(as_real(t)))

    def slope(self, t: TensorLike) -> tf.Tensor:
        """Returns d log_snr / dt at `t`, of the shape of `t`."""
        start, end = self._ends()
        return -2 * self.rho * (end - start) / self._root(as_real(t))

    def time(self, log_snr: TensorLike) -> tf.Tensor:
        """Returns the time at which the log-SNR is `log_snr`."""
        start, end = self._ends()
        return (tf.exp(-as_real(log_snr) / (2 * self.rho)) - start) / (end - start)

    def _ends(self) -> list[float]:
        return [sigma ** (1 / self.rho) for sigma in (self.sigma_min, self.sigma_max)]

    def _root(self, t: tf.Tensor) -> tf.Tensor:
        start, end = self._ends()
        return (1 - t) * start + t * end
