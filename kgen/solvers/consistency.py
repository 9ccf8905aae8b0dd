"""Sampling with the map of the probability flow to its end: an estimate, and noise again.

A distilled student (`kgen.models.distillation`) returns the end z_0 of the probability flow that
goes through a noisy value, so that one evaluation generates an example. A step from t to s follows
the flow to its end and adds the noise of the time s:

    z_0 = student(z_t, t),    z_s ~ q(z_s | z_0)

With the exact map, z_s has its exact distribution whatever the steps. With a learned map, each step
corrects the errors of the one before. A step to s = 0 adds no noise, and ends with z_0: N steps are
N evaluations.

References:
  Song et al. (2023), https://arxiv.org/abs/2303.01469, algorithm 1.
"""

import dataclasses

import tensorflow as tf

from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.types import Denoise, Memory


@serializable
@dataclasses.dataclass(frozen=True)
class Consistency(Solver):
    """Sampling of a distilled model in a few steps, of one call each.

    It is for the students of `kgen.Distillation`: an estimate of E[x given z_t] instead of the end
    of the flow gives samples of too little variance.

    Args:
        grid: see `Solver`.

    Example:
        >>> Consistency().nfe(4)
        4
    """

    order = None
    stochastic = True
    ends_at_data = True

    def nfe(self, num_steps: int) -> int:
        """Returns `num_steps`."""
        return num_steps

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
        z_0 = denoise(z, t)
        return process.transition(z_0, tf.zeros_like(s), s).sample(seed), memory
