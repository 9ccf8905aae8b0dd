"""Heun's method: the trapezoidal rule for the probability flow in the variance-exploding picture.

With y = z / alpha and the noise level n = sigma / alpha = exp(-l / 2) the flow is dy/dn = (y -
x_hat) / n, which is eps_hat. An Euler step predicts, a second call corrects with the mean of both
slopes:

    y' = y + (n_s - n_t) eps_hat(y, t)
    y_s = y + (n_s - n_t) (eps_hat(y, t) + eps_hat(y', s)) / 2

Back in z, the first line is DDIM, and the second adds to it half the change of the slope, times
alpha_s (n_s - n_t) = -sigma_s expm1(h), h = (l_s - l_t) / 2. The result is the same path in every
scaling.

With churn c, a step first goes back to the higher noise level n_t' = (1 + c) n_t by adding noise,

    y' = y + noise sqrt(n_t'^2 - n_t^2) eps

which corrects the errors of earlier steps. At the first step there is no higher level. A step
spans at least the churn then, so that its own error does not vanish with the number of steps:
there is an order 2 without churn only.

Reference:
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, algorithms 1 and 2 (their S_churn is c
  times the number of steps, S_noise is `noise`). Their last step goes to
  n = 0 and is plain Euler; log-SNR is finite here, so every step is corrected.
"""

import dataclasses
import math

import tensorflow as tf

from kgen.checks import check_number, check_positive
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import normal


@serializable
@dataclasses.dataclass(frozen=True)
class Heun(Solver):
    """Second-order single-step solver with two calls a step.

    Args:
        churn: c, in [0, sqrt(2) - 1]; 0 is deterministic.
        noise: standard deviation of the noise that churn adds.
        between: the pair of noise levels sigma / alpha between which there is churn.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> Heun().nfe(50)
        100
    """

    churn: float = 0.0
    noise: float = 1.0
    between: tuple = (0.0, math.inf)

    def __post_init__(self):
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
    def order(self):
        """2, or None with churn."""
        return None if self.churn else 2

    @property
    def stochastic(self):
        """Whether steps draw noise."""
        return self.churn > 0

    def nfe(self, num_steps):
        """Two calls a step."""
        return 2 * num_steps

    def step(self, denoise, process, z, t, s, index, memory, seed):
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

    def _back(self, process, z, t, seed):
        """The state at a higher noise level, and its time."""
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
