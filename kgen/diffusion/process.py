"""The Gaussian forward process: a noise schedule combined with a scaling of signal and noise.

    z_t = alpha_t x + sigma_t eps,    l = log_snr(t) = log(alpha^2 / sigma^2)

The schedule determines l. The scaling determines alpha and sigma from l; it is one function, that
from l to log alpha, since log sigma = log alpha - l / 2:

    vp       alpha^2 + sigma^2 = 1      log alpha = -softplus(-l) / 2
    ve       alpha = 1                  log alpha = 0
    flow     alpha + sigma = 1          log alpha = -softplus(-l / 2)
    sub_vp   sigma = 1 - alpha^2        log alpha = -asinh(exp(-l / 2) / 2)

(sub_vp: with h = sigma / alpha = exp(-l / 2), alpha^2 + h alpha = 1, so 1 / alpha = h/2 +
sqrt(h^2/4 + 1).) For s < t the conditional distributions follow from l_t - l_s < 0, without
subtracting nearly equal numbers:

    q(z_t | z_s)    = N( (alpha_t / alpha_s) z_s,           sigma_t^2 (1 - exp(l_t - l_s)) )
    q(z_s | z_t, x) = N( alpha_s x + k (z_t - alpha_t x),   sigma_s^2 (1 - exp(l_t - l_s)) ),
                      k = (alpha_s / alpha_t) exp(l_t - l_s)

As a stochastic differential equation the process is dz = f z dt + g dw with

    f = d log(alpha) / dt,    g^2 = -sigma^2 dl/dt.

`x` and `z` are `[B, ...]`; times are scalars or `[B]`. Values in half precision are promoted to
float32.

References:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eqs. 1-3 and appendix A.
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 84 (posterior), eq. 133 (Tweedie's formula).
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 29 (VE, VP and sub-VP).
"""

import dataclasses
import math

import tensorflow as tf

from kgen.checks import check_one_of
from kgen.diffusion.schedule import NoiseSchedule
from kgen.gaussian import Gaussian
from kgen.serialization import serializable
from kgen.tensors import derivative, expand_to
from kgen.types import Scaling, TensorLike

SCALINGS = {
    "vp": lambda log_snr: -tf.nn.softplus(-log_snr) / 2,
    "ve": tf.zeros_like,
    "flow": lambda log_snr: -tf.nn.softplus(-log_snr / 2),
    "sub_vp": lambda log_snr: -tf.asinh(tf.exp(-log_snr / 2) / 2),
}


@serializable
@dataclasses.dataclass(frozen=True)
class GaussianDiffusion:
    """The process `z_t = alpha_t x + sigma_t eps`.

    Args:
        schedule: a `NoiseSchedule`.
        scaling: `"vp"`, `"ve"`, `"sub_vp"` or `"flow"`; None for the scaling that the schedule was
            published for, or `"vp"` if there is none.

    Raises:
        ValueError: for an unknown scaling, or if one of `"vp"` and `"sub_vp"` is combined with the
            schedule of the other.
        TypeError: if `schedule` is not a `NoiseSchedule`.

    Example:
        >>> from kgen.diffusion.schedule import CosineLogSNR
        >>> process = GaussianDiffusion(CosineLogSNR(), scaling="flow")
        >>> [v.numpy().round(3).item() for v in process.alpha_sigma(0.5)]
        [0.5, 0.5]
        >>> process.marginal(tf.zeros([4, 8, 8, 3]), tf.zeros([4])).mean.shape
        TensorShape([4, 8, 8, 3])
    """

    schedule: NoiseSchedule
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, NoiseSchedule):
            raise TypeError(f"`schedule` must be a NoiseSchedule. Received: {self.schedule!r}.")
        if self.scaling is None:
            object.__setattr__(self, "scaling", self.schedule.scaling or "vp")
        check_one_of("scaling", self.scaling, SCALINGS)
        # The two differential equations have different log-SNRs.
        if {self.scaling, self.schedule.scaling} == {"vp", "sub_vp"}:
            raise ValueError(
                f"`scaling` must be None or {self.schedule.scaling!r} for {self.schedule!r}. "
                f"Received: scaling={self.scaling!r}."
            )

    def log_snr(self, t: TensorLike) -> tf.Tensor:
        """Returns log(alpha^2 / sigma^2) at `t`, of the shape of `t`."""
        return self.schedule.log_snr(t)

    def log_alpha_sigma_of(self, log_snr: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (log alpha, log sigma) at a log-SNR."""
        log_alpha = SCALINGS[self.scaling](log_snr)
        return log_alpha, log_alpha - log_snr / 2

    def alpha_sigma_of(self, log_snr: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (alpha, sigma) at a log-SNR."""
        log_alpha, log_sigma = self.log_alpha_sigma_of(log_snr)
        return tf.exp(log_alpha), tf.exp(log_sigma)

    def log_std_of(self, log_snr: tf.Tensor, data_std: float = 1.0) -> tf.Tensor:
        """Returns log sqrt(d^2 alpha^2 + sigma^2), the log deviation of z for data of deviation d.

        Args:
            log_snr: log-SNR, of any shape.
            data_std: d, the standard deviation of the data.
        """
        _, log_sigma = self.log_alpha_sigma_of(log_snr)
        return log_sigma + tf.nn.softplus(log_snr + 2 * math.log(data_std)) / 2

    def alpha_sigma(self, t: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (alpha, sigma) at the time `t`, each of the shape of `t`."""
        return self.alpha_sigma_of(self.log_snr(t))

    def marginal(self, x: TensorLike, t: TensorLike) -> Gaussian:
        """Returns q(z_t | x), the distribution of noisy values of `x`.

        Args:
            x: data, `[B, ...]`.
            t: times, scalar or `[B]`.

        Returns:
            A `Gaussian` of the shape of `x`.
        """
        x = _at_least_float32(x)
        log_alpha, log_sigma = self.log_alpha_sigma_of(self._log_snr_for(t, x))
        return Gaussian(tf.exp(log_alpha) * x, log_sigma)

    def transition(self, z_s: TensorLike, s: TensorLike, t: TensorLike) -> Gaussian:
        """Returns q(z_t | z_s), one step toward noise.

        Args:
            z_s: value at time `s`, `[B, ...]`.
            s: earlier times, scalar or `[B]`, less than `t`.
            t: later times, scalar or `[B]`.

        Returns:
            A `Gaussian` of the shape of `z_s`.
        """
        z_s = _at_least_float32(z_s)
        log_snr_s, log_snr_t = self._log_snr_for(s, z_s), self._log_snr_for(t, z_s)
        log_alpha_s, _ = self.log_alpha_sigma_of(log_snr_s)
        log_alpha_t, log_sigma_t = self.log_alpha_sigma_of(log_snr_t)
        mean = tf.exp(log_alpha_t - log_alpha_s) * z_s
        return Gaussian(mean, log_sigma_t + _log_fraction_left(log_snr_s, log_snr_t) / 2)

    def posterior(self, z_t: TensorLike, x: TensorLike, s: TensorLike, t: TensorLike) -> Gaussian:
        """Returns q(z_s | z_t, x), one step toward the data `x`.

        Args:
            z_t: value at time `t`, `[B, ...]`.
            x: data, or an estimate of it, `[B, ...]`.
            s: earlier times, scalar or `[B]`, less than `t`.
            t: later times, scalar or `[B]`.

        Returns:
            A `Gaussian` of the shape of `z_t`.
        """
        z_t = _at_least_float32(z_t)
        x = tf.cast(x, z_t.dtype)
        log_snr_s, log_snr_t = self._log_snr_for(s, z_t), self._log_snr_for(t, z_t)
        log_alpha_s, log_sigma_s = self.log_alpha_sigma_of(log_snr_s)
        log_alpha_t, _ = self.log_alpha_sigma_of(log_snr_t)
        gain = tf.exp(log_alpha_s - log_alpha_t + log_snr_t - log_snr_s)
        mean = tf.exp(log_alpha_s) * x + gain * (z_t - tf.exp(log_alpha_t) * x)
        return Gaussian(mean, log_sigma_s + _log_fraction_left(log_snr_s, log_snr_t) / 2)

    def prior(self, like: TensorLike) -> Gaussian:
        """Returns N(0, alpha(1)^2 + sigma(1)^2), where sampling starts (data of unit variance).

        Args:
            like: a floating-point tensor of the same shape and dtype; or a shape, for float32.

        Returns:
            A `Gaussian` of that shape.
        """
        if tf.is_tensor(like) and like.dtype.is_floating:
            mean = tf.zeros_like(_at_least_float32(like))
        else:
            mean = tf.zeros(like)
        return Gaussian(mean, self.log_std_of(self.log_snr(tf.ones([], mean.dtype))))

    def drift(self, t: TensorLike) -> tf.Tensor:
        """Returns the drift f = d log(alpha) / dt of dz = f z dt + g dw, of the shape of `t`."""
        return derivative(SCALINGS[self.scaling], self.log_snr(t)) * self.schedule.slope(t)

    def diffusion_coefficient(self, t: TensorLike) -> tf.Tensor:
        """Returns g = sigma sqrt(-d log_snr/dt) of dz = f z dt + g dw, of the shape of `t`."""
        _, sigma = self.alpha_sigma(t)
        return sigma * tf.sqrt(-self.schedule.slope(t))

    def score(self, z: TensorLike, x_hat: TensorLike, t: TensorLike) -> tf.Tensor:
        """Returns the score (alpha x_hat - z) / sigma^2 of q(z_t), with `x_hat` = E[x given z].

        Args:
            z: noisy values, `[B, ...]`.
            x_hat: the denoiser's estimate at `z`, `[B, ...]`.
            t: times, scalar or `[B]`.

        Returns:
            The gradient of log q(z_t), `[B, ...]`.
        """
        z = _at_least_float32(z)
        alpha, sigma = self.alpha_sigma_of(self._log_snr_for(t, z))
        return (alpha * tf.cast(x_hat, z.dtype) - z) / sigma**2

    def _log_snr_for(self, t: TensorLike, like: tf.Tensor) -> tf.Tensor:
        """Returns the log-SNR at `t`, in the dtype of `like` and broadcastable against it."""
        t = tf.cast(t, like.dtype) if tf.is_tensor(t) else tf.convert_to_tensor(t, like.dtype)
        return expand_to(self.log_snr(t), like)


def _log_fraction_left(log_snr_s: tf.Tensor, log_snr_t: tf.Tensor) -> tf.Tensor:
    """Returns log(1 - SNR(t) / SNR(s)), the share of the variance that a step from s to t adds."""
    return tf.math.log(-tf.math.expm1(log_snr_t - log_snr_s))


def _at_least_float32(value: TensorLike) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    return tf.cast(value, tf.float32) if value.dtype.size < 4 else value
