"""Heun's method: the trapezoidal rule for the probability flow in the variance-exploding picture.

With y = z / alpha and the noise level n = sigma / alpha = exp(-l / 2) the flow is dy/dn = (y -
x_hat) / n, which is eps_hat. An Euler step predicts, a second call corrects with the mean of both
slopes:

    y' = y + (n_s - n_t) eps_hat(y, t)
    y_s = y + (n_s - n_t) (eps_hat(y, t) + eps_hat(y', s)) / 2

Back in z, the first line is DDIM, and the second adds to it half the change of the slope, times
alpha_s (n_s - n_t) = -sigma_s expm1(h), h = (l_s - l_t) / 2. The result is the same path in every
scaling.

Reference:
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, algorithm 1. Their last step goes to
  n = 0 and is plain Euler; log-SNR is finite here, so every step is corrected.
"""

import dataclasses

import tensorflow as tf

from kgen.serialization import serializable
from kgen.solvers.solver import Solver


@serializable
@dataclasses.dataclass(frozen=True)
class Heun(Solver):
    """Second-order single-step solver with two calls a step.

    Example:
        >>> Heun().nfe(50)
        100
    """

    order = 2

    def nfe(self, num_steps):
        """Two calls a step."""
        return 2 * num_steps

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Makes one step from `t` to `s`."""
        alpha_t, sigma_t = process.alpha_sigma(t)
        alpha_s, sigma_s = process.alpha_sigma(s)
        h = (process.log_snr(s) - process.log_snr(t)) / 2
        x_hat = denoise(z, t)
        slope = (z - alpha_t * x_hat) / sigma_t
        z = alpha_s * x_hat + sigma_s * slope
        corrected = (z - alpha_s * denoise(z, s)) / sigma_s
        return z - sigma_s * tf.math.expm1(h) * (corrected - slope) / 2, memory
