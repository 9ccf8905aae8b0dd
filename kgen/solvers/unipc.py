"""UniPC: the multistep predictor of DPM-Solver++ with a corrector that takes no extra call.

The step from t to s of DPM-Solver++ (`kgen.solvers.dpm_solver`) extrapolates x_hat from earlier
calls. The next step begins with a call of the denoiser at s; with its value, x_s = denoise(z_s, s),
the step from t to s is repeated by interpolation, with an order one higher:

    predict   z_s' from x_hat at t and before          (order p)
    call      x_s = denoise(z_s', s)                   (the next step's own call)
    correct   z_s  from x_s, and x_hat at t and before (order p + 1)

The call is not repeated at the corrected value. In lambda = l / 2 with h = lambda_s - lambda_t, the
earlier step h_1, and I_0, I_1, I_2 as for DPM-Solver++,

    predict   z_s' = (sigma_s / sigma_t) z_t + alpha_s I_0 (x_t + h / 2 (x_t - x_1) / h_1)
    correct   z_s  = (sigma_s / sigma_t) z_t + alpha_s [ I_0 x_t + I_1 D_1 + (I_2 - h I_1) D_2 ]
              D_1 = (x_s - x_t) / h,    D_2 = (D_1 - (x_t - x_1) / h_1) / (h + h_1)

The published corrector solves two equations for the weights of two differences, whose solution is
Newton's polynomial above. With one difference (p = 1, and in the first step) it sets the one weight
to a half:  z_s = (sigma_s / sigma_t) z_t + alpha_s I_0 (x_t + x_s) / 2.

The last step is not corrected. The local error of one step of order p has the power p + 1, so the
method keeps the order p + 1.

Memory: the linear part of the last step, (sigma_s / sigma_t) z_t, to repeat that step; the earlier
x_hat and step sizes.

Reference:
  Zhao et al. (2023), https://arxiv.org/abs/2302.04867, algorithm 1-2, theorem 3.1 and appendix E
  (B(h) = exp(h) - 1 and the weights of a half).
"""

import dataclasses

import tensorflow as tf

from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.types import Denoise, Memory, TimeGrid


@serializable
@dataclasses.dataclass(frozen=True, init=False)
class UniPC(Solver):
    """Multistep predictor-corrector with one call per step.

    Args:
        order: order of the predictor, 1 or 2, as in the paper. The corrector increases the order by
            one; the attribute `order` of the solver is that of the whole method.
        grid: see `Solver`.

    Raises:
        ValueError: for another order.

    Example:
        >>> UniPC(order=2).order, UniPC(order=2).nfe(20)
        (3, 20)
    """

    predictor_order: int

    def __init__(self, order: int = 2, *, grid: TimeGrid = "log_snr") -> None:
        if type(order) is not int or order not in (1, 2):
            raise ValueError(f"`order` must be 1 or 2. Received: order={order!r}.")
        object.__setattr__(self, "predictor_order", order)
        object.__setattr__(self, "grid", grid)
        self.__post_init__()

    @property
    def order(self) -> int:
        """The order of the whole method, one more than that of the predictor."""
        return self.predictor_order + 1

    def nfe(self, num_steps: int) -> int:
        """Returns `num_steps`."""
        return num_steps

    def initial_memory(self, z: tf.Tensor) -> Memory:
        """Returns zeros for the linear part of the last step, earlier estimates and step sizes."""
        none, zero = tf.zeros([], z.dtype), tf.zeros_like(z)
        return {"linear": zero, "x": [zero, zero], "h": [none, none]}

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
        """Corrects the last step, which ended at `t`, and predicts the step from `t` to `s`."""
        log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
        h = (log_snr_s - log_snr_t) / 2
        alpha_t, sigma_t = process.alpha_sigma_of(log_snr_t)
        alpha_s, sigma_s = process.alpha_sigma_of(log_snr_s)
        x_t = denoise(z, t)
        (x_1, x_2), (h_1, h_2) = memory["x"], memory["h"]
        # Step sizes are 0 if there is no earlier step, and so are the divided differences.
        slope = tf.math.divide_no_nan(x_t - x_1, h_1)
        again = memory["linear"] + alpha_t * self._corrected(x_t, x_1, x_2, slope, h_1, h_2)
        linear = sigma_s / sigma_t * tf.where(h_1 == 0, z, again)
        ahead = x_t + h / 2 * slope if self.predictor_order == 2 else x_t
        predicted = linear - alpha_s * tf.math.expm1(-h) * ahead
        # A step of length zero, which a grid in float32 can have, is skipped.
        new = predicted, {"linear": linear, "x": [x_t, x_1], "h": [h, h_1]}
        return tf.nest.map_structure(lambda new, old: tf.where(h == 0, old, new), new, (z, memory))

    def _corrected(
        self,
        x_t: tf.Tensor,
        x_1: tf.Tensor,
        x_2: tf.Tensor,
        slope: tf.Tensor,
        h_1: tf.Tensor,
        h_2: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the integral over the last step, of length `h_1`, given `x_t` at its end."""
        mean_0 = -tf.math.expm1(-h_1)
        single = mean_0 * (x_1 + x_t) / 2
        if self.predictor_order == 1:
            return single
        mean_1 = h_1 - mean_0
        mean_2 = h_1**2 - 2 * mean_1
        second = tf.math.divide_no_nan(slope - tf.math.divide_no_nan(x_1 - x_2, h_2), h_1 + h_2)
        double = mean_0 * x_1 + mean_1 * slope + (mean_2 - h_1 * mean_1) * second
        return tf.where(h_2 == 0, single, double)
