"""UniPC: the multistep predictor of DPM-Solver++ with a corrector that costs no call.

The step from t to s of DPM-Solver++ (`kgen.solvers.dpm_solver`) extrapolates x_hat from the calls
behind it. The first thing that the next step does is to call the denoiser at s; with that value,
x_s = denoise(z_s, s), the step just made can be done once more by interpolation, one order higher:

    predict   z_s' from x_hat at t and before          (order p)
    call      x_s = denoise(z_s', s)                   (the next step's own call)
    correct   z_s  from x_s, and x_hat at t and before (order p + 1)

The call is not repeated at the corrected value. In lambda = l / 2 with h = lambda_s - lambda_t, the
earlier step h_1, and I_0, I_1, I_2 as for DPM-Solver++,

    predict   z_s' = (sigma_s / sigma_t) z_t + alpha_s I_0 (x_t + h / 2 (x_t - x_1) / h_1)
    correct   z_s  = (sigma_s / sigma_t) z_t + alpha_s [ I_0 x_t + I_1 D_1 + (I_2 - h I_1) D_2 ]
              D_1 = (x_s - x_t) / h,    D_2 = (D_1 - (x_t - x_1) / h_1) / (h + h_1)

The published corrector solves two equations for the weights of two differences, whose solution is
Newton's polynomial above. Where it has one difference (p = 1, and the first step) it has one weight
and sets it to a half:  z_s = (sigma_s / sigma_t) z_t + alpha_s I_0 (x_t + x_s) / 2.

The last step is predicted only. Its error is that of one step of order p, a power more than p, and
so the whole keeps the order p + 1.

Memory: the linear part of the newest step, (sigma_s / sigma_t) z_t, to make it again; the earlier
x_hat and step sizes.

Reference:
  Zhao et al. (2023), https://arxiv.org/abs/2302.04867, algorithm 1-2, theorem 3.1 and appendix E
  (B(h) = exp(h) - 1 and the weights of a half).
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
        (3, 20)
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
        """One call a step."""
        return num_steps

    def initial_memory(self, z):
        """Room for the newest step and what it was made from."""
        none, zero = tf.zeros([], z.dtype), tf.zeros_like(z)
        return {"linear": zero, "x": [zero, zero], "h": [none, none]}

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Corrects the step that led to `t`, and makes one from `t` to `s`."""
        log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
        h = (log_snr_s - log_snr_t) / 2
        alpha_t, sigma_t = process.alpha_sigma_of(log_snr_t)
        alpha_s, sigma_s = process.alpha_sigma_of(log_snr_s)
        x_t = denoise(z, t)
        (x_1, x_2), (h_1, h_2) = memory["x"], memory["h"]
        # Step sizes are 0 where there is no such step, and differences over them are too.
        slope = tf.math.divide_no_nan(x_t - x_1, h_1)
        again = memory["linear"] + alpha_t * self._corrected(x_t, x_1, x_2, slope, h_1, h_2)
        linear = sigma_s / sigma_t * tf.where(h_1 == 0, z, again)
        ahead = x_t + h / 2 * slope if self.predictor_order == 2 else x_t
        predicted = linear - alpha_s * tf.math.expm1(-h) * ahead
        # A step of length zero, which a grid in float32 can have, is none.
        new = predicted, {"linear": linear, "x": [x_t, x_1], "h": [h, h_1]}
        return tf.nest.map_structure(lambda new, old: tf.where(h == 0, old, new), new, (z, memory))

    def _corrected(self, x_t, x_1, x_2, slope, h_1, h_2):
        """The integral of the step of length `h_1` that led to `x_t`, with `x_t` known."""
        mean_0 = -tf.math.expm1(-h_1)
        single = mean_0 * (x_1 + x_t) / 2
        if self.predictor_order == 1:
            return single
        mean_1 = h_1 - mean_0
        mean_2 = h_1**2 - 2 * mean_1
        second = tf.math.divide_no_nan(slope - tf.math.divide_no_nan(x_1 - x_2, h_2), h_1 + h_2)
        double = mean_0 * x_1 + mean_1 * slope + (mean_2 - h_1 * mean_1) * second
        return tf.where(h_2 == 0, single, double)
