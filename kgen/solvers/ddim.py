"""DDIM: a step that recombines the estimates of the data and the noise for the next noise level.

    x_hat = denoise(z, t),    eps_hat = (z - alpha_t x_hat) / sigma_t
    v     = eta sigma_s sqrt(1 - exp(l_t - l_s))
    z_s   = alpha_s x_hat + sqrt(sigma_s^2 - v^2) eps_hat + v eps

With eta = 1, v is the standard deviation of q(z_s | z_t, x) and this is ancestral sampling (DDPM);
with eta = 0 it is the exponential Euler method for the probability flow. Written with h = (l_s -
l_t) / 2 and k = sqrt(1 - v^2 / sigma_s^2) = sqrt(1 + eta^2 expm1(-2 h)), and since sigma_s alpha_t
/ sigma_t = alpha_s exp(-h),

    z_s = k (sigma_s / sigma_t) z + alpha_s (1 - k exp(-h)) x_hat + v eps

Toward noise (h < 0) no fresh noise is added, for any eta.

References:
  Song, Meng and Ermon (2020), https://arxiv.org/abs/2010.02502, eqs. 12 and 16.
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, appendix A (the ancestral step).
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_interval
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import normal
from kgen.types import Denoise, Memory


@serializable
@dataclasses.dataclass(frozen=True)
class DDIM(Solver):
    """First-order solver, deterministic or with fresh noise in every step.

    Args:
        eta: amount of fresh noise, from 0 (deterministic) to 1 (ancestral sampling).
        grid: see `Solver`.

    Raises:
        ValueError: if `eta` is not in [0, 1].

    Example:
        >>> DDIM().nfe(50)
        50
    """

    eta: float = 0.0
    order = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("eta", self.eta, "[0, 1]")

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.eta > 0

    def nfe(self, num_steps: int) -> int:
        """Returns `num_steps`."""
        return num_steps

    def step(
        self,
        denoise: Denoise,
        process: GaussianDiffusion,
        z: tf.Tensor,
        t: tf.Tensor,
        s: tf.Tensor,
        index: tf.Tensor,
        memory: Memory,
        seed: tf.Tensor | None,
    ) -> tuple[tf.Tensor, Memory]:
        """Makes one step from `t` to `s`."""
        log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
        h = (log_snr_s - log_snr_t) / 2
        _, log_sigma_t = process.log_alpha_sigma_of(log_snr_t)
        log_alpha_s, log_sigma_s = process.log_alpha_sigma_of(log_snr_s)
        fresh = self.eta**2 * tf.maximum(-tf.math.expm1(-2 * h), 0)
        log_kept = tf.math.log1p(-fresh) / 2
        x_hat = denoise(z, t)
        z = tf.exp(log_kept + log_sigma_s - log_sigma_t) * z
        z -= tf.exp(log_alpha_s) * tf.math.expm1(log_kept - h) * x_hat
        if self.stochastic:
            z += tf.exp(log_sigma_s) * tf.sqrt(fresh) * normal(tf.shape(z), seed, z.dtype)
        return z, memory
