"""PNDM: the Adams-Bashforth multistep method for the noise, the published solver of many models.

A step from t to s is a DDIM step with an estimate of the noise that combines that of this step,
e_0, and those of the steps before, e_1, e_2, e_3:

    1st step   (e_0 + e_s) / 2        with e_s evaluated at the end of a tentative step with e_0
    2nd        (3 e_0 - e_1) / 2
    3rd        (23 e_0 - 16 e_1 + 5 e_2) / 12
    from 4th   (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24

e_s is not used again, since the second step evaluates the denoiser at the state in which the first
one ends; so there is one call more than there are steps. The weights are exact for equal steps in
sigma / alpha, which no published grid has; on smooth grids the method has order 2.

The combined quantity is the one that the network predicts. For "v", v_0 ... v_3 are combined into
one v, which is converted to the noise at t although the combination belongs to a later time; the
order is then 1.

Memory: the three earlier outputs.

References:
  Liu et al. (2022), https://arxiv.org/abs/2202.09778, eqs. 9 and 12. The first step by the improved
  Euler method instead of Runge-Kutta follows published code ("skip_prk_steps").
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

from kgen.checks import check_one_of
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.types import Denoise, Memory

WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@serializable
@dataclasses.dataclass(frozen=True)
class PNDM(Solver):
    """Pseudo linear multistep method with one call per step, and one more in the first step.

    Args:
        prediction: the combined quantity, `"eps"` or `"v"`.
        grid: see `Solver`.

    Raises:
        ValueError: for another `prediction`.

    Example:
        >>> PNDM().order, PNDM().nfe(50)
        (2, 51)
    """

    prediction: Literal["eps", "v"] = "eps"

    @property
    def order(self) -> int:
        """The order: 1 if "v" is combined, else 2."""
        return 1 if self.prediction == "v" else 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("prediction", self.prediction, ("eps", "v"))

    def nfe(self, num_steps: int) -> int:
        """Returns `num_steps + 1`."""
        return num_steps + 1

    def initial_memory(self, z: tf.Tensor) -> Memory:
        """Returns zeros for three earlier outputs, and their number, 0."""
        return {"outputs": [tf.zeros_like(z)] * 3, "count": tf.constant(0)}

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
        log_snr_t, log_snr_s = process.log_snr(t), process.log_snr(s)
        alpha_t, sigma_t = process.alpha_sigma_of(log_snr_t)
        alpha_s, sigma_s = process.alpha_sigma_of(log_snr_s)

        def output(z: tf.Tensor, x_hat: tf.Tensor, alpha: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
            eps = (z - alpha * x_hat) / sigma
            if self.prediction == "eps":
                return eps
            norm = tf.sqrt(alpha**2 + sigma**2)
            return (alpha * eps - sigma * x_hat) / norm

        def move(output: tf.Tensor) -> tf.Tensor:
            eps = output
            if self.prediction == "v":
                norm = tf.sqrt(alpha_t**2 + sigma_t**2)
                eps = (alpha_t * output + sigma_t * z / norm) / norm
            return alpha_s / alpha_t * (z - sigma_t * eps) + sigma_s * eps

        newest = output(z, denoise(z, t), alpha_t, sigma_t)
        outputs, count = [newest, *memory["outputs"]], memory["count"]

        def start() -> tf.Tensor:
            ahead = move(newest)
            return (newest + output(ahead, denoise(ahead, s), alpha_s, sigma_s)) / 2

        def combine(weights: Sequence[float]) -> Callable[[], tf.Tensor]:
            return lambda: sum(w * o for w, o in zip(weights, outputs))

        # A step of length zero, which a grid in float32 can have, is skipped.
        moves = tf.not_equal(log_snr_s, log_snr_t)
        branches = [start, *map(combine, WEIGHTS[1:])]
        z_s = move(tf.switch_case(tf.minimum(count, 3), branches))
        new = z_s, {"outputs": outputs[:3], "count": count + 1}
        return tf.nest.map_structure(lambda new, old: tf.where(moves, new, old), new, (z, memory))
