"""Heun's method: the trapezoidal rule for the probability flow in the noise level sigma / alpha.

With y = z / alpha and the noise level n = sigma / alpha = exp(-l / 2) the flow is dy/dn = (y -
x_hat) / n, which is eps_hat. An Euler step predicts; a second call corrects it with the mean of
both slopes:

    y' = y + (n_s - n_t) eps_hat(y, t)
    y_s = y + (n_s - n_t) (eps_hat(y, t) + eps_hat(y', s)) / 2

In terms of z, the first line is DDIM, and the second adds half the change of the slope, times
alpha_s (n_s - n_t) = -sigma_s expm1(h), h = (l_s - l_t) / 2. The path is the same in every scaling.

With churn c, a step first goes back to the higher noise level n_t' = (1 + c) n_t by adding noise,

    y' = y + noise sqrt(n_t'^2 - n_t^2) eps

which corrects the errors of earlier steps; the first step has no higher level. With churn, the
length of a step does not vanish as the number of steps grows, and neither does its error, so the
method has order 2 only without churn.

Reference:
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, algorithms 1 and 2 (their S_churn is c
  times the number of steps, S_noise is `noise`). Their last step goes to n = 0 and is an Euler
  step; here the log-SNR is finite, so every step is corrected.
"""

import dataclasses
import math

import tensorflow as tf

from kgen.checks import check_number, check_positive
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import normal
from kgen.types import Denoise, Memory


@serializable
@dataclasses.dataclass(frozen=True)
class Heun(Solver):
    """Second-order single-step solver with two calls per step.

    Args:
        churn: relative increase c of the noise level before each step, in [0, sqrt(2) - 1]; 0 is
            deterministic.
        noise: standard deviation of the noise that churn adds, in units of the exact one.
        between: pair of noise levels sigma / alpha between which churn is applied.
        grid: see `Solver`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> Heun().nfe(50)
        100
    """

    churn: float = 0.0
    noise: float = 1.0
    between: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "between", tuple(self.between))  # solvers are hashed
        check_number("churn", self.churn)
        if not 0 <= self.churn <= math.sqrt(2) - 1:
            raise ValueError(f"`churn` must be in [0, 0.414]. Received: churn={self.churn}.")
        check_positive("noise", self.noise)
        if not (len(self.between) == 2 and 0 <= self.between[0] < self.between[1]):
            raise ValueError(
                "`between` must be two noise levels, 0 <= low < high. "
                f"Received: between={self.between}."
            )

    @property
    def order(self) -> int | None:
        """The order, 2; None with churn."""
        return None if self.churn else 2

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.churn > 0

    def nfe(self, num_steps: int) -> int:
        """Returns `2 * num_steps`."""
        return 2 * num_steps

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
        if self.stochastic:
            z, t = self._back(process, z, t, seed)
        alpha_t, sigma_t = process.alpha_sigma(t)
        alpha_s, sigma_s = process.alpha_sigma(s)
        h = (process.log_snr(s) - process.log_snr(t)) / 2
        x_hat = denoise(z, t)
        slope = (z - alpha_t * x_hat) / sigma_t
        z = alpha_s * x_hat + sigma_s * slope
        corrected = (z - alpha_s * denoise(z, s)) / sigma_s
        return z - sigma_s * tf.math.expm1(h) * (corrected - slope) / 2, memory

    def _back(
        self, process: GaussianDiffusion, z: tf.Tensor, t: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the state at a higher noise level, and the time of that level."""
        log_snr = process.log_snr(t)
        level = tf.exp(-log_snr / 2)
        low, high = (tf.cast(end, z.dtype) for end in self.between)
        churn = tf.where((level >= low) & (level <= high), tf.cast(self.churn, z.dtype), 0)
        lowest = process.log_snr(tf.ones_like(t))
        back = tf.maximum(log_snr - 2 * tf.math.log1p(churn), lowest)
        (alpha, _), (alpha_back, _) = (process.alpha_sigma_of(v) for v in (log_snr, back))
        added = tf.sqrt(tf.maximum(tf.exp(-back) - tf.exp(-log_snr), 0))
        y = z / alpha + self.noise * added * normal(tf.shape(z), seed, z.dtype)
        return alpha_back * y, process.schedule.time(back)
