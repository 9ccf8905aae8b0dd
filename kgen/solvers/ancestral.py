"""Ancestral sampling as published for DDPM, with clipped estimates and a choice of two variances.

    z_s = mean of q(z_s | z_t, clip(x_hat, -1, 1)) + std eps

    "small"   std^2 = (sigma_s^2 / sigma_t^2) beta, that of q(z_s | z_t, x)    as DDIM(eta=1)
    "large"   std^2 = beta = 1 - alpha_t^2 / alpha_s^2, that of q(z_t | z_s)

under the scaling "vp"; under the other scalings the noise is rescaled as the state is. The first is
exact for data concentrated on one point, the second for standard normal data. The exact variance
for other data lies between them, and for many steps the two agree.

Reference:
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, section 3.2 (the variances) and 3.3.
"""

import dataclasses
from typing import Literal

import tensorflow as tf

from kgen.checks import check_one_of, check_positive
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import normal
from kgen.types import Denoise, Memory


@serializable
@dataclasses.dataclass(frozen=True)
class Ancestral(Solver):
    """Ancestral sampling (DDPM) with an optional bound on the estimates of the data.

    Args:
        variance: variance of the noise of a step, `"small"` or `"large"`; see the module.
        bound: None, or the largest absolute value of the data, to which estimates are clipped.
        grid: see `Solver`.

    Raises:
        ValueError: for another `variance`, or if `bound` is not positive.

    Example:
        >>> Ancestral("large").nfe(1000)
        1000
    """

    variance: Literal["small", "large"] = "small"
    bound: float | None = None

    order = 1
    stochastic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("variance", self.variance, ("small", "large"))
        if self.bound is not None:
            check_positive("bound", self.bound)

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
        """Makes one step from `t` to `s`, with fresh noise if it goes toward the data."""
        log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
        x_hat = denoise(z, t)
        if self.bound is not None:
            x_hat = tf.clip_by_value(x_hat, -self.bound, self.bound)
        _, sigma_t = process.alpha_sigma_of(log_snr_t)
        alpha_s, sigma_s = process.alpha_sigma_of(log_snr_s)
        gain = sigma_s / sigma_t * tf.exp((log_snr_t - log_snr_s) / 2)
        fresh = tf.maximum(-tf.math.expm1(log_snr_t - log_snr_s), 0)
        if self.variance == "small":
            std = sigma_s * tf.sqrt(fresh)
        else:
            # beta = sigma_t^2 * fresh under "vp", where sigma_t^2 = sigmoid(-log_snr).
            std = tf.sqrt(tf.sigmoid(-log_snr_t) * fresh * (alpha_s**2 + sigma_s**2))
        mean = gain * z - alpha_s * tf.math.expm1(log_snr_t - log_snr_s) * x_hat
        return mean + std * normal(tf.shape(z), seed, z.dtype), memory
