"""DPM-Solver++: multistep exponential integrators in data prediction.

With lambda = l / 2 and h = lambda_s - lambda_t the path from t to s is, in every scaling,

    z_s = (sigma_s / sigma_t) z_t
        + alpha_s * integral from 0 to h of exp(tau - h) x_hat(lambda_t + tau) dtau

The linear part is exact. Along the step, x_hat is extrapolated from the value x_0 at the start of
the step and the earlier values x_1 and x_2, at distances h_1 and h_1 + h_2, by Newton's polynomial

    x_hat(tau) = x_0 + tau D_1 + tau (tau + h_1) D_2
    D_1 = (x_0 - x_1) / h_1,    D_2 = (D_1 - (x_1 - x_2) / h_2) / (h_1 + h_2)

whose integral needs  I_0 = 1 - exp(-h),  I_1 = h - I_0,  I_2 = h^2 - 2 I_1  (the integrals of
exp(tau - h) tau^k):

    order 1    I_0 x_0                               (DDIM)
    order 2    I_0 (x_0 + h / 2 D_1)                 (the published 2M: I_1 = I_0 h / 2 + O(h^3))
    order 3    I_0 x_0 + I_1 D_1 + (I_2 + h_1 I_1) D_2

The first step has no earlier values. For order 2 a first step of order 1 is sufficient. For order 3
it must be of order 2: one extra call at the end of the first step gives D_1 = (x_hat(z', s) - x_0)
/ h; the second step uses D_1 only. The third-order multistep update in the authors' code has
I_2 / 2 where order 3 above has I_2, and its measured order is two; that of this one is three.

The form for the reverse-time stochastic differential equation (`sde`, orders 1 and 2) damps z twice
as fast and adds fresh noise:

    z_s = (sigma_s / sigma_t) exp(-h) z_t + alpha_s (1 - exp(-2 h)) (x_0 + h / 2 D_1)
        + sigma_s sqrt(1 - exp(-2 h)) eps

Order 1 is ancestral sampling, DDIM(eta=1). The order is then that of means and variances. Steps
toward noise (h < 0) are the deterministic ones, since the equation runs toward the data.

Memory: x_1 and x_2, of the shape of z, and h_1 and h_2.

References:
  Lu et al. (2022), https://arxiv.org/abs/2211.01095, eq. 8 and algorithm 2 (2M); appendix A (the
  form for the stochastic differential equation).
  Hochbruck and Ostermann (2010), https://doi.org/10.1017/S0962492910000048 (exponential multistep).
"""

import dataclasses

import tensorflow as tf

from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import normal
from kgen.types import Denoise, Memory


@serializable
@dataclasses.dataclass(frozen=True)
class DPMSolver(Solver):
    """DPM-Solver++, a multistep solver with one call per step.

    Args:
        order: 1, 2 or 3; order 3 takes one extra call in the first step.
        sde: whether to solve the stochastic differential equation, with fresh noise in every step;
            for order 1 and 2.
        grid: see `Solver`.

    Raises:
        ValueError: for another order.

    Example:
        >>> DPMSolver(order=2).nfe(20), DPMSolver(order=3).nfe(20)
        (20, 21)
    """

    order: int = 2
    sde: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sde and self.order == 3:
            raise ValueError("`order` must be 1 or 2 with `sde`. Received: order=3.")
        if type(self.order) is not int or self.order not in (1, 2, 3):
            raise ValueError(f"`order` must be 1, 2 or 3. Received: order={self.order!r}.")

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.sde

    def nfe(self, num_steps: int) -> int:
        """Returns `num_steps`, plus one for order 3."""
        return num_steps + (1 if self.order == 3 else 0)

    def initial_memory(self, z: tf.Tensor) -> Memory:
        """Returns zeros for the earlier estimates and step sizes."""
        none = tf.zeros([], z.dtype)
        return {"x": [tf.zeros_like(z)] * (self.order - 1), "h": [none] * (self.order - 1)}

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
        h = (process.log_snr(s) - process.log_snr(t)) / 2
        _, sigma_t = process.alpha_sigma(t)
        alpha_s, sigma_s = process.alpha_sigma(s)
        damping = tf.where(h > 0, 2 * h, h) if self.sde else h
        mean_0 = -tf.math.expm1(-damping)
        x_0 = denoise(z, t)
        divide = tf.math.divide_no_nan

        def move(integral: tf.Tensor) -> tf.Tensor:
            moved = sigma_s / sigma_t * tf.exp(h - damping) * z + alpha_s * integral
            if self.sde:
                moved += (
                    sigma_s * tf.sqrt(tf.maximum(mean_0, 0)) * normal(tf.shape(z), seed, z.dtype)
                )
            return moved

        if self.order == 1:
            return move(mean_0 * x_0), memory
        x_past, h_past = memory["x"], memory["h"]
        first = divide(x_0 - x_past[0], h_past[0])  # 0 in the first step, where h_past is 0
        if self.order == 2:
            z = move(mean_0 * (x_0 + h / 2 * first))
        else:
            mean_1 = h - mean_0
            mean_2 = h**2 - 2 * mean_1
            older = divide(x_past[0] - x_past[1], h_past[1])
            second = divide(first - older, h_past[0] + h_past[1])
            second = tf.where(h_past[1] == 0, tf.zeros_like(second), second)

            def look_ahead() -> tf.Tensor:
                return divide(denoise(move(mean_0 * x_0), s) - x_0, h)

            first = tf.cond(h_past[0] == 0, look_ahead, lambda: first)
            z = move(mean_0 * x_0 + mean_1 * first + (mean_2 + h_past[0] * mean_1) * second)
        # A step of length zero, which a grid in float32 can have, is not an earlier step.
        new = {"x": [x_0, *x_past[:-1]], "h": [h, *h_past[:-1]]}
        return z, tf.nest.map_structure(lambda new, old: tf.where(h == 0, old, new), new, memory)
