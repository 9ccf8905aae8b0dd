"""PNDM: Adams and Bashforth's multistep method for the noise, the published solver of many models.

A step from t to s moves along the estimate of the noise as DDIM does; the estimate is a combination
of this call's, e_0, and those of the steps before, e_1, e_2, e_3:

    1st step   (e_0 + e_s) / 2        with e_s called at the end of a first try with e_0 alone
    2nd        (3 e_0 - e_1) / 2
    3rd        (23 e_0 - 16 e_1 + 5 e_2) / 12
    from 4th   (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24

The call e_s is not used again: the second step calls at the state that the first one ends with. So
there is one call more than there are steps. The weights are those of steps of one length in sigma /
alpha, which no published grid has; what is left is order 2 for smooth grids.

What the network predicts is what is combined. For "v", v_0 ... v_3 become one v, from which the
noise follows at t although the combination belongs to a later time; that leaves order 1.

Memory: the three earlier outputs.

References:
  Liu et al. (2022), https://arxiv.org/abs/2202.09778, eqs. 9 and 12. The start by one improved step
  of Euler's instead of Runge-Kutta's is that of the published code ("skip_prk_steps").
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_one_of
from kgen.serialization import serializable
from kgen.solvers.solver import Solver

WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@serializable
@dataclasses.dataclass(frozen=True)
class PNDM(Solver):
    """Pseudo linear multistep method with one call a step, and one more in the first.

    Args:
        prediction: what is combined, `"eps"` or `"v"`.

    Raises:
        ValueError: for another `prediction`.

    Example:
        >>> PNDM().order, PNDM().nfe(50)
        (2, 51)
    """

    prediction: str = "eps"

    @property
    def order(self):
        """1 where "v" is combined, else 2."""
        return 1 if self.prediction == "v" else 2

    def __post_init__(self):
        super().__post_init__()
        check_one_of("prediction", self.prediction, ("eps", "v"))

    def nfe(self, num_steps):
        """One call a step, and one more in the first."""
        return num_steps + 1

    def initial_memory(self, z):
        """Room for three earlier outputs, and how many there are."""
        return {"outputs": [tf.zeros_like(z)] * 3, "count": tf.constant(0)}

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Makes one step from `t` to `s`."""
        log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
        alpha_t, sigma_t = process.alpha_sigma_of(log_snr_t)
        alpha_s, sigma_s = process.alpha_sigma_of(log_snr_s)

        def output(z, x_hat, alpha, sigma):
            eps = (z - alpha * x_hat) / sigma
            if self.prediction == "eps":
                return eps
            norm = tf.sqrt(alpha**2 + sigma**2)
            return (alpha * eps - sigma * x_hat) / norm

        def move(output):
            eps = output
            if self.prediction == "v":
                norm = tf.sqrt(alpha_t**2 + sigma_t**2)
                eps = (alpha_t * output + sigma_t * z / norm) / norm
            return alpha_s / alpha_t * (z - sigma_t * eps) + sigma_s * eps

        newest = output(z, denoise(z, t), alpha_t, sigma_t)
        outputs, count = [newest, *memory["outputs"]], memory["count"]

        def start():
            ahead = move(newest)
            return (newest + output(ahead, denoise(ahead, s), alpha_s, sigma_s)) / 2

        def combine(weights):
            return lambda: sum(w * o for w, o in zip(weights, outputs))

        # A step of length zero, which a grid in float32 can have, is none.
        moves = tf.not_equal(log_snr_s, log_snr_t)
        branches = [start, *map(combine, WEIGHTS[1:])]
        z_s = move(tf.switch_case(tf.minimum(count, 3), branches))
        new = z_s, {"outputs": outputs[:3], "count": count + 1}
        return tf.nest.map_structure(lambda new, old: tf.where(moves, new, old), new, (z, memory))
