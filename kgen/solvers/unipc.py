"""UniPC: the multistep predictor of DPM-Solver++ with a corrector that costs no call.

The step from t to s of DPM-Solver++ (`kgen.solvers.dpm_solver`) extrapolates x_hat from the calls
behind it. The first thing that the next step does is to call the denoiser at s; with that value,
x_s = denoise(z_s, s), the step just made can be done once more by interpolation, one order higher:

    predict   z_s' from x_hat at t and before         (order p)
    call      x_s = denoise(z_s', s)
    correct   z_s  from x_s, and x_hat at t and before (order p + 1)

The call is not repeated at the corrected value: it is what the next step starts from. So there is
one call a step, and one more at the end for the last correction. In lambda = l / 2 with h =
lambda_s - lambda_t, and Newton's polynomial through the newest value,

    z_s = (sigma_s / sigma_t) z_t + alpha_s [ I_0 x_t + I_1 D_1 + (I_2 - h I_1) D_2 ]
    D_1 = (x_s - x_t) / h,    D_2 = (D_1 - (x_t - x_1) / h_1) / (h + h_1)

with I_0, I_1, I_2 as there. The published corrector weighs the same differences by coefficients
in B(h) that agree with these to the order of the method.

Memory: the earlier x_hat and step sizes, and the state and log-SNR before the newest step.

Reference:
  Zhao et al. (2023), https://arxiv.org/abs/2302.04867, algorithm 1-2 and theorem 3.1.
"""

import dataclasses

import tensorflow as tf

from kgen.serialization import serializable
from kgen.solvers.solver import Solver


@serializable
@dataclasses.dataclass(frozen=True, init=False)
class UniPC(Solver):
    """Predictor-corrector with one call a step.

    Args:
        order: order of the predictor, 1 or 2, as the paper counts. The corrector makes it one
            more, which is what the attribute `order` of the solver says.

    Raises:
        ValueError: for another order.

    Example:
        >>> UniPC(order=2).order, UniPC(order=2).nfe(20)
        (3, 21)
    """

    predictor_order: int

    def __init__(self, order=2, *, grid="log_snr"):
        if type(order) is not int or order not in (1, 2):
            raise ValueError(f"`order` must be 1 or 2. Received: order={order!r}.")
        object.__setattr__(self, "predictor_order", order)
        object.__setattr__(self, "grid", grid)
        self.__post_init__()

    @property
    def order(self):
        """One more than that of the predictor, by the corrector."""
        return self.predictor_order + 1

    def nfe(self, num_steps):
        """One call a step, and one at the start."""
        return num_steps + 1

    def initial_memory(self, z):
        """Room for x_hat at the state and before it, and for the step between the two."""
        return {"x": [tf.zeros_like(z)] * 2, "h": tf.zeros([], z.dtype)}

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Makes one step from `t` to `s`."""
        h = (process.log_snr(s) - process.log_snr(t)) / 2
        _, sigma_t = process.alpha_sigma(t)
        alpha_s, sigma_s = process.alpha_sigma(s)
        mean_0 = -tf.math.expm1(-h)
        mean_1 = h - mean_0
        mean_2 = h**2 - 2 * mean_1
        divide = tf.math.divide_no_nan
        x_t = tf.cond(index == 0, lambda: denoise(z, t), lambda: memory["x"][0])
        h_past = memory["h"]  # 0 in the first step, which has no differences
        slope = divide(x_t - memory["x"][1], h_past)

        def move(integral):
            return sigma_s / sigma_t * z + alpha_s * integral

        ahead = mean_1 * slope if self.predictor_order == 2 else 0.0
        x_s = denoise(move(mean_0 * x_t + ahead), s)
        first = divide(x_s - x_t, h)
        integral = mean_0 * x_t + mean_1 * first
        if self.predictor_order == 2:
            second = divide(first - slope, h + h_past)
            integral += (mean_2 - h * mean_1) * tf.where(h_past == 0, tf.zeros_like(z), second)
        # A step of length zero, which a grid in float32 can have, is none to look back on.
        new, old = {"x": [x_s, x_t], "h": h}, {"x": [x_t, memory["x"][1]], "h": h_past}
        memory = tf.nest.map_structure(lambda new, old: tf.where(h == 0, old, new), new, old)
        return move(integral), memory
