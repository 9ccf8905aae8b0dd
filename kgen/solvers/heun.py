"""Heun's method: the trapezoidal rule for the probability flow, in one of two pictures.

A picture divides z by a number, y = z / c, and measures noise by a coordinate u, in both of which
y is linear at fixed x_hat and eps_hat,

    "flow"  c = alpha + sigma,  u = sigma / (alpha + sigma),  y = (1 - u) x + u eps, dy/du = eps - x
    "ve"    c = alpha,          u = n = sigma / alpha,        y = x + n eps,         dy/du = eps

An Euler step predicts, a second call corrects with the mean of both slopes:

    y' = y + (u_s - u_t) dy/du(y, t)
    y_s = y + (u_s - u_t) (dy/du(y, t) + dy/du(y', s)) / 2

Back in z, the first line is DDIM in both, z' = alpha_s x_hat + sigma_s eps_hat, and the second adds
to it, with h = (l_s - l_t) / 2,

    w expm1(h) (x_hat(z', s) - x_hat(z, t)) / 2,    w = alpha_s                        in "ve"
                                                    w = alpha_s (1 + n_s) / (1 + n_t)  in "flow"

The result is the same path in every scaling of the process. A step over noise levels far apart,
n_s much less than n_t, is corrected far too much in "ve": from a log-SNR of -10 to 10 in 10 steps
equidistant in it, N(0, 1) is missed by 0.16, and by 0.008 in "flow".

With churn c, a step first goes back to the higher noise level n_t' = (1 + c) n_t by adding noise,

    y' = y + noise sqrt(n_t'^2 - n_t^2) eps

which corrects the errors of earlier steps. At the first step there is no higher level. A step
spans at least the churn then, so that its own error does not vanish with the number of steps:
there is an order 2 without churn only.

References:
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, algorithms 1 and 2, in the picture "ve"
  (their S_churn is c times the number of steps, S_noise is `noise`). Their last step goes to
  n = 0 and is plain Euler; log-SNR is finite here, so every step is corrected.
  Lipman et al. (2022), https://arxiv.org/abs/2210.02747, section 4.1 (the velocity eps - x).
"""

import dataclasses
import math

import tensorflow as tf

from kgen.checks import check_number, check_one_of, check_positive
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import normal

PICTURES = ("flow", "ve")


@serializable
@dataclasses.dataclass(frozen=True)
class Heun(Solver):
    """Second-order single-step solver with two calls a step.

    Args:
        churn: c, in [0, sqrt(2) - 1]; 0 is deterministic.
        noise: standard deviation of the noise that churn adds.
        between: the pair of noise levels sigma / alpha between which there is churn.
        picture: `"flow"`, or `"ve"` for the algorithms of Karras et al.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> Heun().nfe(50)
        100
    """

    churn: float = 0.0
    noise: float = 1.0
    between: tuple = (0.0, math.inf)
    picture: str = "flow"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "between", tuple(self.between))  # solvers are hashed
        check_number("churn", self.churn)
        if not 0 <= self.churn <= math.sqrt(2) - 1:
            raise ValueError(f"`churn` must be in [0, 0.414]. Received: churn={self.churn}.")
        check_positive("noise", self.noise)
        check_one_of("picture", self.picture, PICTURES)
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
        log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
        alpha_t, sigma_t = process.alpha_sigma_of(log_snr_t)
        alpha_s, sigma_s = process.alpha_sigma_of(log_snr_s)
        weight = alpha_s
        if self.picture == "flow":  # (1 + n_s) / (1 + n_t), of logarithms that do not overflow
            weight *= tf.exp(tf.nn.softplus(-log_snr_s / 2) - tf.nn.softplus(-log_snr_t / 2))
        x_hat = denoise(z, t)
        z = alpha_s * x_hat + sigma_s * (z - alpha_t * x_hat) / sigma_t
        change = denoise(z, s) - x_hat
        return z + weight * tf.math.expm1((log_snr_s - log_snr_t) / 2) * change / 2, memory

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
