"""Heun's method: the trapezoidal rule for the probability flow, in one of two parameterisations.

A parameterisation (`picture`) divides z by a number, y = z / c, and measures the noise level by a
coordinate u, in both of which y is linear for constant x_hat and eps_hat,

    "flow"  c = alpha + sigma,  u = sigma / (alpha + sigma),  y = (1 - u) x + u eps, dy/du = eps - x
    "ve"    c = alpha,          u = n = sigma / alpha,        y = x + n eps,         dy/du = eps

An Euler step predicts; a second call corrects it with the mean of both slopes:

    y' = y + (u_s - u_t) dy/du(y, t)
    y_s = y + (u_s - u_t) (dy/du(y, t) + dy/du(y', s)) / 2

In terms of z, the first line is DDIM in both, z' = alpha_s x_hat + sigma_s eps_hat, and the second
adds to it, with h = (l_s - l_t) / 2,

    w expm1(h) (x_hat(z', s) - x_hat(z, t)) / 2,    w = alpha_s                        in "ve"
                                                    w = alpha_s (1 + n_s) / (1 + n_t)  in "flow"

The path is the same in every scaling of the process. A step between distant noise levels, n_s much
less than n_t, is corrected too much in "ve": from a log-SNR of -10 to 10 in 10 equal steps, the
error for N(0, 1) is 0.16, and 0.008 in "flow".

With churn c, a step first goes back to the higher noise level n_t' = (1 + c) n_t by adding noise,

    y' = y + noise sqrt(n_t'^2 - n_t^2) eps

which corrects the errors of earlier steps; the first step has no higher level. With churn, the
length of a step does not vanish as the number of steps grows, and neither does its error, so the
method has order 2 only without churn.

References:
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, algorithms 1 and 2, in "ve"
  (their S_churn is c times the number of steps, S_noise is `noise`). Their last step goes to
  n = 0 and is an Euler step; here the log-SNR is finite, so every step is corrected.
  Lipman et al. (2022), https://arxiv.org/abs/2210.02747, section 4.1 (the velocity eps - x).
"""

import dataclasses
import math
from typing import Literal

import tensorflow as tf

from kgen.checks import check_number, check_one_of, check_positive
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import normal
from kgen.types import Denoise, Memory

PICTURES = ("flow", "ve")


@serializable
@dataclasses.dataclass(frozen=True)
class Heun(Solver):
    """Second-order single-step solver with two calls per step.

    Args:
        churn: relative increase c of the noise level before each step, in [0, sqrt(2) - 1]; 0 is
            deterministic.
        noise: standard deviation of the noise that churn adds, in units of the exact one.
        between: pair of noise levels sigma / alpha between which churn is applied.
        picture: the parameterisation, `"flow"`, or `"ve"` for the algorithms of Karras et al.
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
    picture: Literal["flow", "ve"] = "flow"

    def __post_init__(self) -> None:
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
